"""The shape of every value for given shapes of the inputs, by ONNX's shape inference on a graph without weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from onnx import shape_inference

from gn_onnx.files import external_data, graph_walk
from gn_onnx.recognition.stand_ins import put_stand_ins

_MAX_CARRIED_ELEMENTS = 64
"""Initializers up to this size travel along with their values: shapes, axes and repeats are among them."""


def concrete_shapes(proto: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes by value name, for the values whose every size inference finds.

    Args:
        proto: The model; it is not changed and its weights are not copied.
        input_shapes: A shape for each graph input.
    """
    skeleton = onnx.ModelProto(ir_version=proto.ir_version)
    skeleton.opset_import.extend(proto.opset_import)
    skeleton.functions.extend(proto.functions)
    graph = skeleton.graph
    graph.name = "skeleton"
    graph.node.extend(map(_known_to_inference, proto.graph.node))
    put_stand_ins(graph.node)
    shapes: dict[str, tuple[int, ...]] = {}
    for value in proto.graph.input:
        graph.input.append(value)
        if value.name in input_shapes:
            _set_shape(graph.input[-1], input_shapes[value.name])
    declared = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        if math.prod(tensor.dims) <= _MAX_CARRIED_ELEMENTS and not external_data.is_external(tensor):
            graph.initializer.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for output in proto.graph.output:
        # The names of sizes in an output would be taken for different sizes than those that were chosen.
        graph.output.append(onnx.ValueInfoProto(name=output.name))
    try:
        inferred = shape_inference.infer_shapes(skeleton, check_type=False, strict_mode=False, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError, ValueError, TypeError):
        return shapes | dict(input_shapes)  # odd models: the other shapes are then simply not known
    told_twice: set[str] = set()
    _collect(inferred.graph, shapes, told_twice)
    return {name: shape for name, shape in shapes.items() if name not in told_twice}


def _known_to_inference(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node, or one of the same shape: ONNX's inference knows nothing of its own GroupNormalization."""
    if node.op_type.startswith("GroupNormalization"):
        return onnx.helper.make_node("Identity", node.input[:1], node.output[:1])
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def element_types(proto: onnx.ModelProto) -> dict[str, int]:
    """ONNX element types of initializers, inputs, outputs and annotated values of the main graph."""
    found = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if value.type.tensor_type.elem_type:
            found[value.name] = value.type.tensor_type.elem_type
    return found


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    value.type.tensor_type.shape.ClearField("dim")
    for size in shape:
        value.type.tensor_type.shape.dim.add().dim_value = size


def _collect(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]], told_twice: set[str]) -> None:
    """Adds what is known of a graph and those inside it; graphs side by side may use one name for two shapes."""
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shape = tuple(dim.dim_value for dim in tensor.shape.dim)
            if shapes.setdefault(value.name, shape) != shape:
                told_twice.add(value.name)
    for node in graph.node:
        for subgraph in graph_walk.subgraphs(node):
            _collect(subgraph, shapes, told_twice)
