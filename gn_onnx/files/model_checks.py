"""What must hold of a model before anybody looks into it: the promises that the rest of the code relies on.

ONNX's own checker refuses models that every runtime takes (custom operators, deprecated ones) and loads
external data. Here is checked only what would make a later step fail in a confusing way: names that nobody
computes, cycles, functions that call themselves, tensors whose size does not fit their data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx

from gn_onnx.errors import GnOnnxError
from gn_onnx.files import external_data, graph_walk, norm_checks, schema_checks
from gn_onnx.files.graph_walk import all_nodes, find_cycle, subgraphs, uses

_MAX_ELEMENTS = 1 << 48
"""More than any machine holds; a larger product of dims is a corrupt file, and would overflow int64 later."""

_MAX_EXPANDED = 1 << 22
"""Nodes that one function may stand for, the bodies of those that it calls included."""

_MAX_CALL_DEPTH = 100
"""Of functions that call functions; onnx has the same limit."""

_TYPES: dict[int, tuple[int, str]] = {
    getattr(onnx.TensorProto, name): (bits, field)
    for bits, field, names in (
        (32, "float_data", "FLOAT"),
        (64, "float_data", "COMPLEX64"),
        (64, "double_data", "DOUBLE"),
        (128, "double_data", "COMPLEX128"),
        (64, "int64_data", "INT64"),
        (64, "uint64_data", "UINT64"),
        (32, "uint64_data", "UINT32"),
        (32, "int32_data", "INT32"),
        (16, "int32_data", "INT16 UINT16 FLOAT16 BFLOAT16"),
        (8, "int32_data", "INT8 UINT8 BOOL FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ FLOAT8E8M0"),
        (6, "int32_data", "FLOAT6E2M3 FLOAT6E3M2"),
        (4, "int32_data", "INT4 UINT4 FLOAT4E2M1"),
        (2, "int32_data", "INT2 UINT2"),
        (0, "string_data", "STRING"),
    )
    for name in names.split()
    if hasattr(onnx.TensorProto, name)
}
"""Bits of an element in raw data, and the field that holds elements otherwise, one per element or per byte."""


def check(proto: onnx.ModelProto) -> None:
    """Check a model without touching its external data.

    Raises:
        GnOnnxError: One sentence that names the node, value or tensor, and the shape where there is one.
    """
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise GnOnnxError("holds no graph: not an ONNX model")
    if proto.ir_version < 1:
        raise GnOnnxError(f"has the IR version {proto.ir_version}: not a valid ONNX model")
    if not proto.opset_import and proto.ir_version >= 3:
        raise GnOnnxError("imports no operator set: not a valid ONNX model")
    _check_text(proto)
    for tensor in external_data.tensors(proto):
        _check_tensor(tensor)
    local = {(function.domain, function.name) for function in proto.functions}
    schema_checks.check_nodes(all_nodes(proto.graph.node), proto.opset_import, local)
    norm_checks.check_nodes(all_nodes(proto.graph.node))
    _check_graph(proto.graph, frozenset())
    for function in proto.functions:
        norm_checks.check_nodes(all_nodes(function.node))
        schema_checks.check_nodes(all_nodes(function.node), function.opset_import, local)
        _check_nodes(function.node, set(function.input), f"function {function.domain}::{function.name}")
    _check_calls(proto)


def _check_text(message: Any) -> None:
    """protobuf hands out a string field that is not UTF-8 as bytes, which no later code expects."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for item in value if field.is_repeated else (value,):
            if field.type == field.TYPE_MESSAGE:
                _check_text(item)
            elif not isinstance(item, str):
                raise GnOnnxError(f"{field.containing_type.name}.{field.name} {item[:40]!r} is not UTF-8 text")


def _check_tensor(tensor: onnx.TensorProto) -> None:
    dims = list(tensor.dims)
    where = f"tensor {tensor.name!r} of shape {dims}"
    if any(dim < 0 for dim in dims):
        raise GnOnnxError(f"{where} has a negative dimension")
    count = math.prod(dims)
    if count > _MAX_ELEMENTS:
        raise GnOnnxError(f"{where} has {count} elements: the file is damaged")
    if tensor.data_type not in _TYPES:
        if tensor.data_type in onnx.TensorProto.DataType.values() and tensor.data_type:
            return  # newer than this table
        raise GnOnnxError(f"{where} has the unknown element type {tensor.data_type}")
    bits, field = _TYPES[tensor.data_type]
    size = (count * bits + 7) // 8
    if external_data.is_external(tensor):
        length = external_data.reference(tensor).length
        if not bits or (length is not None and length < size):
            raise GnOnnxError(f"{where} needs {size} bytes, its external data has {length}")
    elif tensor.HasField("raw_data"):
        if not bits or len(tensor.raw_data) != size:
            raise GnOnnxError(f"{where} needs {size} bytes of data, it has {len(tensor.raw_data)}")
        if (unused := 8 * size - count * bits) and tensor.raw_data[-1] >> (8 - unused):
            raise GnOnnxError(f"{where} has bits set behind its last element")
    else:
        needed = size if 0 < bits < 8 else 2 * count if "COMPLEX" in _name(tensor.data_type) else count
        if len(getattr(tensor, field)) != needed:
            raise GnOnnxError(f"{where} needs {needed} elements, it has {len(getattr(tensor, field))}")


def _name(data_type: int) -> str:
    return str(onnx.TensorProto.DataType.Name(data_type))


def _check_graph(graph: onnx.GraphProto, outer: frozenset[str]) -> None:
    where = f"graph {graph.name!r}"
    for value in (*graph.input, *graph.output, *graph.value_info):
        _check_value_shape(value, where)
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {sparse.values.name for sparse in graph.sparse_initializer}
    for name in (name for node in graph.node for name in node.output if name in known):
        raise GnOnnxError(f"{where}: value {name!r} is computed by a node, and an input or constant as well")
    known = _check_nodes(graph.node, known | outer, where)
    for output in graph.output:
        if output.name not in known:
            raise GnOnnxError(f"{where}: output {output.name!r} is computed by no node")


def _check_value_shape(value: onnx.ValueInfoProto, where: str) -> None:
    if value.type.WhichOneof("value") != "tensor_type":
        return
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]
    if any(isinstance(dim, int) and dim < 0 for dim in dims):
        raise GnOnnxError(f"{where}: value {value.name!r} of shape {dims} has a negative dimension")


def _check_nodes(nodes: Sequence[onnx.NodeProto], known: set[str], where: str) -> set[str]:
    """Names known after the nodes; every input must be one of them, and no node may wait for itself."""
    computed: dict[str, int] = {}
    for index, node in enumerate(nodes):
        if not node.op_type:
            raise GnOnnxError(f"{where}: node {index} ({node.name!r}) has no operator type")
        for name in filter(None, node.output):
            if name in computed:
                raise GnOnnxError(f"{where}: value {name!r} is computed twice, by node {_label(node)} the second time")
            computed[name] = index
    everything = known | computed.keys()
    in_order, seen = True, set(known)
    for node in nodes:
        for name in filter(None, node.input):
            if name not in everything:
                raise GnOnnxError(f"{where}: input {name!r} of node {_label(node)} is computed by no node")
        for graph in subgraphs(node):
            _check_graph(graph, frozenset(everything))
        in_order = in_order and seen.issuperset(uses(node))
        seen.update(node.output)
    if not in_order:
        _check_acyclic(nodes, computed, where)
    return everything


def _check_acyclic(nodes: Sequence[onnx.NodeProto], computed: dict[str, int], where: str) -> None:
    def inputs(index: int) -> Iterable[int]:
        return (computed[name] for name in uses(nodes[index]) if name in computed)

    cycle = find_cycle(range(len(nodes)), inputs)
    if cycle is not None:
        raise GnOnnxError(f"{where}: node {_label(nodes[cycle])} needs its own result: the graph has a cycle")


def _check_calls(proto: onnx.ModelProto) -> None:
    """Functions may call functions, but not themselves."""
    index = {graph_walk.key_of(function): number for number, function in enumerate(proto.functions)}

    def callees(number: int) -> Iterator[int]:
        for node in all_nodes(proto.functions[number].node):
            if graph_walk.called_by(node) in index:
                yield index[graph_walk.called_by(node)]

    recursive = find_cycle(range(len(proto.functions)), callees)
    if recursive is not None:
        function = proto.functions[recursive]
        raise GnOnnxError(f"function {function.domain}::{function.name} calls itself")
    _check_expansion(proto)


def _check_expansion(proto: onnx.ModelProto) -> None:
    """Runtimes put bodies in the place of calls: functions that call the next one twice, forty deep, are 2^40 nodes."""
    nodes: dict[tuple[str, str, str], int] = {}
    depth: dict[tuple[str, str, str], int] = {}
    for function in graph_walk.callees_first(proto.functions):
        own = [graph_walk.called_by(node) for node in all_nodes(function.node)]
        key = graph_walk.key_of(function)
        nodes[key] = sum(nodes.get(call, 1) for call in own)
        depth[key] = 1 + max((depth.get(call, 0) for call in own), default=0)
        if nodes[key] > _MAX_EXPANDED or depth[key] > _MAX_CALL_DEPTH:
            raise GnOnnxError(
                f"function {function.domain}::{function.name} stands for {float(nodes[key]):.3g} nodes,"
                f" with calls {depth[key]} deep: more than {_MAX_EXPANDED} nodes or {_MAX_CALL_DEPTH} calls"
            )


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} -> {list(node.output)[:1]}"
