"""ONNX's own shape and type inference, on a copy of the graph without its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx import shape_inference

from gn_onnx.recognition.sizes import Size
from gn_onnx.recognition.stand_ins import put_stand_ins

_MAX_CARRIED_ELEMENTS = 64
"""Initializers up to this size travel along with their values: shapes, axes and repeats are among them."""

READS_CONSTANTS = {"Slice", "Reshape", "Expand", "Tile", "Squeeze", "Unsqueeze", "ReduceMean", "ReduceSum"}
"""Operators whose results have a shape that follows from the values of their later inputs."""

Known = Mapping[str, "Inferred"]
"""By value name, in one graph."""

Folded = Callable[[ir.Value], np.ndarray | None]
"""The array that a value always is, None where it is not constant."""

Dimensions = tuple[int | None, ...]
"""Of one value; None for a dimension that is not known."""

Shaped = Mapping[ir.Value, tuple[ir.DataType, Dimensions]]
"""What is known beforehand of some results."""


@dataclasses.dataclass(frozen=True)
class Inferred:
    """What inference says of one value: sizes of its dimensions (None: rank unknown) and its element type."""

    sizes: tuple[Size, ...] | None
    dtype: ir.DataType


class _Table(Mapping[str, Inferred]):
    """What inference wrote down for one graph, read when somebody asks."""

    def __init__(self, graph: onnx.GraphProto, scope: str) -> None:
        self._infos: dict[str, onnx.ValueInfoProto] = {}
        for info in (*graph.output, *graph.value_info, *graph.input):
            self._infos[info.name] = info
        self._scope = scope
        self._read: dict[str, Inferred] = {}

    def __getitem__(self, name: str) -> Inferred:
        if name not in self._read:
            self._read[name] = _read(self._infos[name], self._scope)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)


def infer_function(model: ir.Model, function: ir.Function, inputs: list[Inferred | None]) -> dict[ir.Graph, Known]:
    """For the body of a model-local function whose inputs are `inputs` (None: nothing is known), and the graphs inside."""
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 8))
    for domain, version in function.opset_imports.items():
        proto.opset_import.append(onnx.helper.make_opsetid(domain, version))
    proto.graph.name = function.name
    proto.graph.node.extend(ir.serde.serialize_node(node) for node in function)
    put_stand_ins(proto.graph.node)
    for parameter, known in zip(function.inputs, inputs, strict=True):
        info = onnx.ValueInfoProto(name=parameter.name or "")
        if known is not None and known.dtype != ir.DataType.UNDEFINED:
            info = onnx.helper.make_tensor_value_info(info.name, known.dtype.value, _dims(known))
        proto.graph.input.append(info)
    proto.graph.output.extend(onnx.ValueInfoProto(name=value.name or "") for value in function.outputs)
    proto.functions.extend(_functions(f for f in model.functions.values() if f is not function))
    return _by_graph(_inferred(proto), function.graph)


def joined(first: Inferred | None, second: Inferred | None, name: str) -> Inferred | None:
    """What is true of both: where two calls of a function differ, a dimension is unknown."""
    if first is None or second is None or first.dtype != second.dtype:
        return None
    if first.sizes is None or second.sizes is None or len(first.sizes) != len(second.sizes):
        return Inferred(None, first.dtype)
    pairs = enumerate(zip(first.sizes, second.sizes, strict=True))
    return Inferred(tuple(a if a == b else Size.symbol(f"{name}[{i}]") for i, (a, b) in pairs), first.dtype)


def _dims(known: Inferred) -> list[int | str] | None:
    if known.sizes is None:
        return None
    return [size.static if size.static is not None else str(size) for size in known.sizes]


def infer(model: ir.Model, folded: Folded, shaped: Shaped) -> dict[ir.Graph, Known]:
    """For the main graph and every graph inside it: graphs side by side may use one name for two values.

    `folded` computes what inference does not: TorchScript takes the rank of unflatten's result from a Mod. `shaped` are
    shapes that it did not find.

    A model that inference refuses gives an empty table: its shapes are then simply not known.
    """
    proto = _skeleton(model, folded, shaped)
    inferred = _inferred(proto)
    opset = next((o for o in proto.opset_import if o.domain in ("", "ai.onnx")), None)
    if opset is not None and opset.version < _FOLLOWS_SHAPES:
        # Only since opset 14 does inference follow Shape into Reshape; what it then finds, older rules may go on from.
        for _ in range(_MAX_ROUNDS):
            known = len(inferred.value_info)
            newer = onnx.ModelProto()
            newer.CopyFrom(proto)
            _as_opset_14(newer)
            inferred = _inferred(newer, _inferred(proto, inferred))
            if len(inferred.value_info) == known:
                break
    return _by_graph(inferred, model.graph)


_FOLLOWS_SHAPES = 14
_MAX_ROUNDS = 4
_AXES_INPUT = {"Squeeze": "axes", "Unsqueeze": "axes", "ReduceSum": "axes", "Split": "split"}


def _inferred(proto: onnx.ModelProto, known: onnx.GraphProto | None = None) -> onnx.GraphProto:
    """The graph with what inference finds, starting from what is `known` of it."""
    if known is not None:
        named = {info.name for info in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)}
        for info in known.value_info:
            if info.name not in named and info.type.tensor_type.HasField("shape"):
                proto.graph.value_info.append(info)
    try:
        return shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True).graph
    except Exception:  # inference raises several unrelated types on odd models; none of them is ours to report
        return onnx.GraphProto() if known is None else known


def _by_graph(proto: onnx.GraphProto, graph: ir.Graph, scope: str = "") -> dict[ir.Graph, Known]:
    """One table for `graph`, which `proto` is the skeleton of, and one for each graph inside its nodes."""
    tables: dict[ir.Graph, Known] = {graph: _Table(proto, scope)}
    outer = [node for node in graph if any(True for attribute in node.attributes.values() for _ in _graphs(attribute))]
    skeletons = [node for node in proto.node if any(a.HasField("g") or a.graphs for a in node.attribute)]
    for number, (node, skeleton) in enumerate(zip(outer, skeletons, strict=False)):
        for attribute in skeleton.attribute:
            bodies = [attribute.g] if attribute.HasField("g") else attribute.graphs
            for i, (body, inner) in enumerate(zip(bodies, _graphs(node.attributes[attribute.name]), strict=True)):
                tables.update(_by_graph(body, inner, f"{scope}{number}.{attribute.name}{i}/"))
    return tables


def _as_opset_14(proto: onnx.ModelProto) -> None:
    """The same graph as far as shapes are concerned: attributes that became inputs by then are inputs."""
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = _FOLLOWS_SHAPES
    for i, node in enumerate(proto.graph.node):
        name = _AXES_INPUT.get(node.op_type)
        for attribute in list(node.attribute):
            if attribute.name != name:
                continue
            constant = onnx.helper.make_tensor(f"_{name}_{i}", onnx.TensorProto.INT64, [len(attribute.ints)], attribute.ints)
            proto.graph.initializer.append(constant)
            node.input.append(constant.name)
            node.attribute.remove(attribute)


def _skeleton(model: ir.Model, folded: Folded, shaped: Shaped) -> onnx.ModelProto:
    # A newer IR version: in those before 4, inference overlooks an initializer that is not listed as an input too.
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 8))
    for domain, version in model.graph.opset_imports.items():
        proto.opset_import.append(onnx.helper.make_opsetid(domain, version))
    proto.graph.name = model.graph.name or "graph"
    proto.graph.value_info.extend(_annotations(model.graph))
    proto.graph.node.extend(_with_knowledge(node, folded, shaped, proto.graph) for node in model.graph)
    put_stand_ins(proto.graph.node)
    proto.graph.input.extend(ir.serde.serialize_value(value) for value in model.graph.inputs)
    proto.graph.output.extend(onnx.ValueInfoProto(name=value.name or "") for value in model.graph.outputs)
    inputs = {value.name for value in model.graph.inputs}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        if tensor.size <= _MAX_CARRIED_ELEMENTS and not isinstance(tensor, ir.ExternalTensor):
            proto.graph.initializer.append(ir.serde.serialize_tensor(tensor))
            proto.graph.initializer[-1].name = name
        elif name not in inputs:
            info = onnx.helper.make_tensor_value_info(
                name, tensor.dtype.value, [d for d in tensor.shape if isinstance(d, int)]
            )
            proto.graph.input.append(info)
    _without_identities(proto.graph)
    proto.functions.extend(_functions(model.functions.values()))
    return proto


def _functions(functions: Iterable[ir.Function]) -> Iterator[onnx.FunctionProto]:
    for function in functions:
        proto = ir.serde.serialize_function(function)
        put_stand_ins(proto.node)
        yield proto


def _with_knowledge(node: ir.Node, folded: Folded, shaped: Shaped, graph: onnx.GraphProto) -> onnx.NodeProto:
    """The node, with initializers of `graph` in the place of what is computed from constants, and shapes noted there."""
    proto = ir.serde.serialize_node(node)
    _tell(node, proto, folded, shaped, graph)
    return proto


def _tell(node: ir.Node, proto: onnx.NodeProto, folded: Folded, shaped: Shaped, graph: onnx.GraphProto) -> None:
    for attribute in proto.attribute:
        bodies = [attribute.g] if attribute.HasField("g") else attribute.graphs
        for body, source in zip(bodies, _graphs(node.attributes[attribute.name]), strict=True):
            for inner, inner_proto in zip(source, body.node, strict=True):
                _tell(inner, inner_proto, folded, shaped, body)
    for output in node.outputs:
        if output in shaped and not output.is_graph_output():
            _note(graph, output.name or "", *shaped[output])
    if node.op_type not in READS_CONSTANTS:
        return
    for i, value in enumerate(node.inputs[1:], start=1):
        producer = value.producer() if value is not None else None
        if value is None or producer is None or producer.op_type == "Constant":
            continue
        array = folded(value)
        if array is not None and array.dtype == np.int64 and array.size <= _MAX_CARRIED_ELEMENTS:
            proto.input[i] = f"{value.name}/folded/{len(graph.initializer)}"
            graph.initializer.append(onnx.numpy_helper.from_array(array, proto.input[i]))


def _note(graph: onnx.GraphProto, name: str, dtype: ir.DataType, dimensions: Dimensions) -> None:
    """Writes down a shape, in the place of what the model says of it."""
    for info in list(graph.value_info):
        if info.name == name:
            graph.value_info.remove(info)
    graph.value_info.append(onnx.helper.make_tensor_value_info(name, dtype.value, dimensions))


def _graphs(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.is_ref():
        return []
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []


def _without_identities(graph: onnx.GraphProto, outer: Mapping[str, str] | None = None) -> None:
    """Reads small constants directly: inference does not follow the value of a shape through Identity."""
    constants = {tensor.name for tensor in graph.initializer}
    constants.update(node.output[0] for node in graph.node if node.op_type == "Constant")
    source = dict(outer or {})
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in source:
                node.input[i] = source[name]
        if node.op_type == "Identity" and node.input[0] in constants:
            source[node.output[0]] = node.input[0]
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _without_identities(body, source)


def _annotations(graph: ir.Graph) -> Iterable[onnx.ValueInfoProto]:
    outputs = set(graph.outputs)
    for node in graph:
        for value in node.outputs:
            if value.shape is not None and value.type is not None and value not in outputs:
                yield ir.serde.serialize_value(value)


def _read(info: onnx.ValueInfoProto, scope: str) -> Inferred:
    dtype = ir.DataType(info.type.tensor_type.elem_type)
    if not info.type.tensor_type.HasField("shape"):
        return Inferred(None, dtype)
    sizes = []
    for axis, dim in enumerate(info.type.tensor_type.shape.dim):
        if dim.HasField("dim_value"):
            sizes.append(Size.of(dim.dim_value))
        else:
            sizes.append(Size.symbol(dim.dim_param or f"{scope}{info.name}[{axis}]"))
    return Inferred(tuple(sizes), dtype)
