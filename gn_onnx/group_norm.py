"""The records that the layers hand to one another: what was recognised, and what was not and why.

GroupNorm (Wu & He, "Group Normalization", ECCV 2018, eq. 1-6), over x of shape [N, C, *spatial]:

    y[n, c, s] = scale[c] * (x[n, c, s] - mean[n, g]) * rstd[n, g] + bias[c],   g = c // (C / num_groups)
    rstd = 1 / sqrt(var + epsilon),  var = E[x^2] - E[x]^2 (biased), over the C / num_groups channels of g and all s
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "gn_onnx"
"""Domain of our operators, version `DOMAIN_VERSION`; custom_ops/ defines the same name, a test compares them."""
DOMAIN_VERSION = 1

OP_TYPE = "GroupNormalization"
ACTIVATIONS = ("none", "relu", "silu", "hard_swish", "leaky_relu")
"""Epilogues with an operator of their own, in the order of `gn::Activation`."""

_ACTIVATION_SUFFIX = {"none": "", "relu": "Relu", "silu": "Silu", "hard_swish": "HardSwish", "leaky_relu": "LeakyRelu"}


def op_type(activation: str, *, channels_last: bool) -> str:
    """Operator name, e.g. `GroupNormalizationSilu` or `GroupNormalizationChannelsLastSilu`."""
    return f"{OP_TYPE}{'ChannelsLast' if channels_last else ''}{_ACTIVATION_SUFFIX[activation]}"


@dataclasses.dataclass(frozen=True)
class PerChannel:
    """A value per channel: the sum over `terms` of `coefficient * product(values)`.

    Each coefficient is a float64 array of shape [] or [C]; each of the values is a tensor of the graph
    whose elements, flattened, are the C channels (or a single element). A constant has one term with no
    values. `terms == ()` is zero.
    """

    terms: tuple[tuple[np.ndarray, tuple[ir.Value, ...]], ...]

    @classmethod
    def constant(cls, coefficient: np.ndarray | float) -> PerChannel:
        return cls(((np.asarray(coefficient, dtype=np.float64), ()),))

    @property
    def constant_value(self) -> np.ndarray | None:
        """The float64 coefficient ([] or [C]) when no tensor of the graph is involved, else None."""
        if not self.terms:
            return np.zeros((), dtype=np.float64)
        if len(self.terms) == 1 and not self.terms[0][1]:
            return self.terms[0][0]
        return None


@dataclasses.dataclass(frozen=True)
class GroupNorm:
    """One GroupNorm found in a graph: `output == activation(GroupNorm(x))`.

    Attributes:
        x: Input, [N, C, *spatial], or [N, *spatial, C] when `channels_last`.
        output: The value that is replaced; shape and dtype of x.
        x_shape: Where the output has another shape than x with the same elements in the same order (x is
            [N, C, H, W], the output [N, C, H*W]): what x has to be reshaped to first, as ONNX's Reshape takes it
            (0: this dimension as it is, -1: the rest). None: the output has x's own shape.
        x_perm: Where the output has the layout of a Transpose of x: the `perm` of that.
        one_sample: x and output are one sample, [C, *spatial] or [*spatial, C]: the node is given a batch of one.
        num_groups: Number of groups; divides C.
        epsilon: Added to the variance inside the root.
        scale: Per channel, gamma.
        bias: Per channel, beta.
        dtype: Element type of x, scale, bias and output; x's own annotation may be missing.
        rank: Number of dimensions of output.
        sizes: Sizes of these dimensions as far as they are known; a fused node says it where no annotation does.
        num_channels: C, or None where the graph does not tell (then scale and bias are scalars).
        stash_type: ONNX element type of the statistics: 1 (float32), or 11 (float64) for float64 x.
        channels_last: Where the channel axis lies.
        activation: One of `ACTIVATIONS`, applied last.
        alpha: Slope of leaky_relu, else 0.
        core: Op type of the node whose result fixed the statistics (for reports), e.g. "InstanceNormalization".
        native: The value is already computed by one GroupNormalization node (ONNX's or a contrib one).
        shaped_like_x: Values on the way that have x's shape: what asks one of them for it can ask x.
        node_names: Names of the nodes between x and output, in graph order (for reports).
    """

    x: ir.Value
    output: ir.Value
    num_groups: int
    epsilon: float
    scale: PerChannel
    bias: PerChannel
    dtype: ir.DataType
    rank: int
    num_channels: int | None
    sizes: tuple[int | None, ...] | None = None
    x_shape: tuple[int, ...] | None = None
    x_perm: tuple[int, ...] | None = None
    one_sample: bool = False
    stash_type: int = 1
    channels_last: bool = False
    activation: str = "none"
    alpha: float = 0.0
    core: str = ""
    native: bool = False
    shaped_like_x: tuple[ir.Value, ...] = ()
    node_names: tuple[str, ...] = ()

    @property
    def op_type(self) -> str:
        return op_type(self.activation, channels_last=self.channels_last)

    def __str__(self) -> str:
        return f"{self.op_type}(num_groups={self.num_groups}, epsilon={self.epsilon:g}) {self.x.name} -> {self.output.name}"


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A look-alike that stays as it was.

    Attributes:
        reason: One sentence that a model author can act on.
        node: Name of the first node that broke the proof ("" when it has none).
        op_type: Its operator.
        value: Name of the value it computes.
        reached: The last expression that was still understood, in x, m = E[x], q = E[x^2] and rstd.
    """

    reason: str
    node: str = ""
    op_type: str = ""
    value: str = ""
    reached: str = ""

    def __str__(self) -> str:
        where = f"{self.op_type} {self.node or self.value}".strip()
        return f"{where}: {self.reason}"
