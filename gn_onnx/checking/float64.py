"""GroupNorm in float64, straight from its definition, and any node with float64 in the place of shorter floats.

The definition is written down here once more, apart from the kernels and from the function bodies: it is what
they are checked against. Imports: numpy, onnx.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference.op_run import OpRun

from gn_onnx.files import graph_walk
from gn_onnx.group_norm import ACTIVATIONS, DOMAIN, OP_TYPE, op_type

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)

Array = np.ndarray[Any, np.dtype[Any]]

_ACTIVATION: dict[str, Callable[[Array, float], Array]] = {
    "none": lambda y, _: y,
    "relu": lambda y, _: np.maximum(y, 0),
    "silu": lambda y, _: y / (1 + np.exp(-y)),
    "hard_swish": lambda y, _: y * np.clip(y / 6 + 0.5, 0, 1),
    "leaky_relu": lambda y, alpha: np.where(y < 0, alpha * y, y),
}


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
    groups = planar.reshape(planar.shape[0], num_groups, -1)
    centred = groups - groups.mean(axis=2, keepdims=True)
    normalised = centred / np.sqrt(np.square(centred).mean(axis=2, keepdims=True) + epsilon)
    per_channel = (planar.shape[1],) + (1,) * (planar.ndim - 2)
    affine = (np.broadcast_to(np.asarray(v, np.float64).ravel(), per_channel[:1]) for v in (scale, bias))
    gamma, beta = (value.reshape(per_channel) for value in affine)
    y = _ACTIVATION[activation](normalised.reshape(planar.shape) * gamma + beta, alpha)
    return np.moveaxis(y, 1, -1) if channels_last else y


def _operator(name: str, domain: str, activation: str, channels_last: bool) -> type[OpRun]:
    def run(self: OpRun, x: Array, scale: Array, bias: Array | None = None, **_: Any) -> tuple[Array]:
        values = {attribute.name: attribute for attribute in self.onnx_node.attribute}
        num_groups = values["num_groups"].i
        if bias is None:
            bias = np.zeros(1)
        channels = x.shape[-1 if channels_last else 1]
        if not domain and scale.size == num_groups != channels:  # version 18: one scale per group
            scale, bias = (np.repeat(value, channels // num_groups) for value in (scale, bias))
        y = group_norm(
            x, scale, bias,
            num_groups=num_groups,
            epsilon=values["epsilon"].f if "epsilon" in values else 1e-5,
            channels_last=channels_last,
            activation=activation,
            alpha=values["alpha"].f if "alpha" in values else 0.01,
        )  # fmt: skip
        return (y,)

    return type(name, (OpRun,), {"op_domain": domain, "_run": run})


def _contrib_run(self: OpRun, x: Array, scale: Array, bias: Array, **_: Any) -> tuple[Array]:
    values = {attribute.name: attribute for attribute in self.onnx_node.attribute}
    channels_last = values["channels_last"].i if "channels_last" in values else 1
    y = group_norm(
        x, scale, bias,
        num_groups=values["groups"].i,
        epsilon=values["epsilon"].f if "epsilon" in values else 1e-5,
        channels_last=bool(channels_last),
        activation="silu" if values["activation"].i else "none",
    )  # fmt: skip
    return (y,)


def _quick_gelu(self: OpRun, x: Array, **_: Any) -> tuple[Array]:
    values = {attribute.name: attribute.f for attribute in self.onnx_node.attribute}
    return (x / (1 + np.exp(-values.get("alpha", 1.702) * x)),)


_Contrib = type("GroupNorm", (OpRun,), {"op_domain": "com.microsoft", "_run": _contrib_run})

GROUP_NORM_OPS = (
    _Contrib,
    type("QuickGelu", (OpRun,), {"op_domain": "com.microsoft", "_run": _quick_gelu}),
    _operator(OP_TYPE, "", "none", False),
    *(_operator(op_type(a, channels_last=last), DOMAIN, a, last) for a in ACTIVATIONS for last in (False, True)),
)
"""Our operators, ONNX's and ONNX Runtime's for `onnx.reference.ReferenceEvaluator`, in float64."""


def to_float64(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy that computes in float64: constants, targets of Cast and subgraphs converted."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            array = np.array(attribute.f if attribute.name == "value_float" else list(attribute.floats), np.float64)
            attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(array)))
        elif attribute.HasField("t") and attribute.t.data_type in _FLOATS:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))
        elif attribute.name in ("to", "dtype") and attribute.i in _FLOATS:
            attribute.i = TensorProto.DOUBLE
    for graph in graph_walk.subgraphs(copy):
        graph_to_float64(graph)
    return copy


def graph_to_float64(graph: onnx.GraphProto) -> None:
    """Convert a graph in place: nodes, initializers, inputs and outputs."""
    nodes = [to_float64(node) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type in _FLOATS and tensor.data_location != TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
