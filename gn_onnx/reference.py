"""Our operators for `onnx.reference`, so that a fused model runs with no native code at all.

    ReferenceEvaluator(model, new_ops=list(gn_onnx.reference.OPS)).run(None, feeds)

The definition is written down here once, apart from the kernels and from the function bodies: it is what they are
checked against. Everything is computed in float64 and rounded once, to the element type of X. (The evaluator also runs
fused models without `OPS`, by the function bodies that they carry, with the roundings of those.)
Imports: numpy, onnx.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from onnx.reference.op_run import OpRun

from gn_onnx.group_norm import ACTIVATIONS, DOMAIN, op_type

Array = np.ndarray[Any, np.dtype[Any]]

_ACTIVATION: dict[str, Callable[[Array, float], Array]] = {
    "none": lambda y, _: y,
    "relu": lambda y, _: np.maximum(y, 0),
    "silu": lambda y, _: y * _sigmoid(y),
    "hard_swish": lambda y, _: y * np.clip(y / 6 + 0.5, 0, 1),
    "leaky_relu": lambda y, alpha: np.where(y < 0, alpha * y, y),
}


def activate(y: Array, activation: str, alpha: float = 0.0) -> Array:
    """One of `ACTIVATIONS` on y, in the type of y."""
    return _ACTIVATION[activation](y, alpha)


def _sigmoid(y: Array) -> Array:
    """1 / (1 + exp(-y)) without overflow."""
    small = np.exp(-np.abs(y))
    return np.where(y < 0, small, 1.0) / (1.0 + small)


def group_norm(
    x: Array,
    scale: Array,
    bias: Array,
    *,
    num_groups: int,
    epsilon: float,
    channels_last: bool = False,
    activation: str = "none",
    alpha: float = 0.0,
) -> Array:
    """The definition, two passes, in float64.

    Args:
        x: [N, C, *spatial], or [N, *spatial, C] when `channels_last`.
        scale: [C], or one element.
        bias: As scale.
        num_groups: Divides C.
        epsilon: Added to the biased variance.
        channels_last: Where the channel axis lies.
        activation: One of `ACTIVATIONS`.
        alpha: Slope of leaky_relu.

    Returns:
        float64, shape of x.

    Raises:
        ValueError: C is not divisible by num_groups, or scale or bias is of another length.
    """
    x = np.asarray(x, np.float64)
    planar = np.moveaxis(x, -1, 1) if channels_last else x
    batch, channels = planar.shape[:2]
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"GroupNorm of x {x.shape}: {channels} channels are not divisible by num_groups = {num_groups}")
    rows = planar.reshape(batch, num_groups, channels // num_groups * math.prod(planar.shape[2:]))
    centred = rows - rows.mean(axis=2, keepdims=True)
    normalised = centred / np.sqrt(np.square(centred).mean(axis=2, keepdims=True) + epsilon)
    per_channel = (channels,) + (1,) * (planar.ndim - 2)
    affine = (np.broadcast_to(np.asarray(v, np.float64).ravel(), per_channel[:1]) for v in (scale, bias))
    gamma, beta = (value.reshape(per_channel) for value in affine)
    y = activate(normalised.reshape(planar.shape) * gamma + beta, activation, alpha)
    return np.moveaxis(y, 1, -1) if channels_last else y


class _GroupNormalization(OpRun):
    """What the operators have in common; each is a subclass that fixes activation and layout."""

    op_domain = DOMAIN
    activation: ClassVar[str]
    channels_last: ClassVar[bool]

    def _run(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        num_groups: int,
        epsilon: float = 1e-5,
        stash_type: int = 1,
        alpha: float = 0.01,
    ) -> tuple[Array]:
        """The result, in the type of x.

        `stash_type` is not looked at: the statistics are exact to float64 whatever it asks for.

        Raises:
            ValueError: As `group_norm`.
        """
        y = group_norm(
            x, scale, bias,
            num_groups=num_groups,
            epsilon=epsilon,
            channels_last=self.channels_last,
            activation=self.activation,
            alpha=alpha,
        )  # fmt: skip
        return (y.astype(x.dtype),)


def _operator(activation: str, *, channels_last: bool) -> type[OpRun]:
    name = op_type(activation, channels_last=channels_last)
    return type(name, (_GroupNormalization,), {"activation": activation, "channels_last": channels_last})


OPS: tuple[type[OpRun], ...] = tuple(
    _operator(activation, channels_last=last) for activation in ACTIVATIONS for last in (False, True)
)
"""One class per operator of the domain `gn_onnx`."""
