"""Any node with float64 in the place of shorter floats, and every GroupNorm operator by its definition.

Imports: numpy, onnx.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, inliner, numpy_helper
from onnx.reference.op_run import OpRun

from gn_onnx.files import graph_walk
from gn_onnx.group_norm import DOMAIN, OP_TYPE
from gn_onnx.reference import OPS, group_norm

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)

Array = np.ndarray[Any, np.dtype[Any]]


def _standard_run(
    self: OpRun, x: Array, scale: Array, bias: Array, num_groups: int, epsilon: float = 1e-5, **_: Any
) -> tuple[Array]:
    channels = x.shape[1]
    if scale.size == num_groups != channels:  # version 18: one scale per group
        scale, bias = (np.repeat(value, channels // num_groups) for value in (scale, bias))
    return (group_norm(x, scale, bias, num_groups=num_groups, epsilon=epsilon),)


def _contrib_run(self: OpRun, x: Array, scale: Array, bias: Array, **_: Any) -> tuple[Array]:
    values = {attribute.name: attribute for attribute in self.onnx_node.attribute}
    channels_last = values["channels_last"].i if "channels_last" in values else 1
    y = group_norm(
        x, scale, bias,
        num_groups=values["groups"].i,
        epsilon=values["epsilon"].f if "epsilon" in values else 1e-5,
        channels_last=bool(channels_last),
        activation="silu" if "activation" in values and values["activation"].i else "none",
    )  # fmt: skip
    return (y,)


def _skip_run(
    self: OpRun, x: Array, scale: Array, bias: Array, skip: Array, shift: Array | None = None, **_: Any
) -> tuple[Array, ...]:
    total = x + (skip if skip.ndim == x.ndim else skip[:, None, None, :])
    total = total if shift is None else total + shift
    return (*_contrib_run(self, total, scale, bias), total)[: len(self.onnx_node.output)]


def _quick_gelu(self: OpRun, x: Array, **_: Any) -> tuple[Array]:
    values = {attribute.name: attribute.f for attribute in self.onnx_node.attribute}
    return (x / (1 + np.exp(-values.get("alpha", 1.702) * x)),)


def _fused_mat_mul(self: OpRun, a: Array, b: Array, **_: Any) -> tuple[Array]:
    values = {attribute.name: attribute for attribute in self.onnx_node.attribute}
    sides = []
    for side, array in (("A", a), ("B", b)):
        if f"transBatch{side}" in values and values[f"transBatch{side}"].i:
            array = np.moveaxis(array, 0, -2)
        if f"trans{side}" in values and values[f"trans{side}"].i:
            array = array.swapaxes(-1, -2)
        sides.append(array)
    return ((values["alpha"].f if "alpha" in values else 1.0) * (sides[0] @ sides[1]),)


_Contrib = type("GroupNorm", (OpRun,), {"op_domain": "com.microsoft", "_run": _contrib_run})

GROUP_NORM_OPS = (
    _Contrib,
    type("SkipGroupNorm", (OpRun,), {"op_domain": "com.microsoft", "_run": _skip_run}),
    type("FusedMatMul", (OpRun,), {"op_domain": "com.microsoft", "_run": _fused_mat_mul}),
    type("QuickGelu", (OpRun,), {"op_domain": "com.microsoft", "_run": _quick_gelu}),
    type(OP_TYPE, (OpRun,), {"op_domain": "", "_run": _standard_run}),
    *OPS,
)
"""Our operators, ONNX's and ONNX Runtime's for `onnx.reference.ReferenceEvaluator`, in float64."""


def to_float64(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy that computes in float64: constants, targets of Cast and subgraphs converted."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.domain = "" if node.domain == "ai.onnx" else node.domain  # onnx.reference knows one spelling of it
    for attribute in copy.attribute:
        if attribute.ref_attr_name:
            continue
        if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            array = np.array(attribute.f if attribute.name == "value_float" else list(attribute.floats), np.float64)
            attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(array)))
        elif attribute.HasField("t") and attribute.t.data_type in _FLOATS:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))
        elif attribute.name in ("to", "dtype") and attribute.i in _FLOATS:
            attribute.i = TensorProto.DOUBLE
    if copy.op_type == "ConstantOfShape" and not copy.attribute:
        copy.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))  # not float32
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


def model_to_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as onnx.reference runs it, in float64: functions in order, each with its own name. `model` is used up."""
    model = _with_functions_inlined(model)
    graph_to_float64(model.graph)
    functions = []
    for function in graph_walk.callees_first(model.functions):
        copy = onnx.FunctionProto()
        copy.CopyFrom(function)
        del copy.node[:]
        copy.node.extend(map(to_float64, function.node))
        functions.append(copy)
    del model.functions[:]
    model.functions.extend(functions)
    _without_overloads(model)
    return model


def _with_functions_inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions that read attributes of their calls; its calls are completed in place.

    Neither onnx.reference nor ONNX's inliner knows the defaults of such attributes.
    """
    calls = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    reading = {
        graph_walk.key_of(function): function
        for function in model.functions
        if function.domain != DOMAIN
        and any(a.ref_attr_name for node in graph_walk.all_nodes(function.node) for a in node.attribute)
    }
    for node in graph_walk.all_nodes(calls) if reading else ():
        function = reading.get(graph_walk.called_by(node))
        given = {attribute.name for attribute in node.attribute}
        if function is not None:
            node.attribute.extend(default for default in function.attribute_proto if default.name not in given)
    names = [(domain, name) for domain, name, _ in reading]
    return inliner.inline_selected_functions(model, names) if reading else model


def _without_overloads(model: onnx.ModelProto) -> None:
    """Give every function a name of its own, in place: onnx.reference looks at no overload."""
    calls = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for node in graph_walk.all_nodes(calls):
        if node.overload:
            node.op_type, node.overload = f"{node.op_type}.{node.overload}", ""
    for function in model.functions:
        if function.overload:
            function.name, function.overload = f"{function.name}.{function.overload}", ""
