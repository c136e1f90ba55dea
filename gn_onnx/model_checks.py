"""What must hold of a model before anybody looks into it: the promises that the rest of the code relies on.

ONNX's own checker refuses models that every runtime takes (custom operators, deprecated ones) and loads
external data. Here is checked only what would make a later step fail in a confusing way: names that nobody
computes, cycles, functions that call themselves, tensors whose size does not fit their data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import onnx

from gn_onnx import external_data
from gn_onnx.errors import GnOnnxError

_MAX_ELEMENTS = 1 << 48
"""More than any machine holds; a larger product of dims is a corrupt file, and would overflow int64 later."""

# Bits of one element in raw data. Types that are not listed (string, undefined, types newer than this) are not checked.
_BITS: dict[int, int] = {
    onnx.TensorProto.FLOAT: 32, onnx.TensorProto.UINT8: 8, onnx.TensorProto.INT8: 8, onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.INT16: 16, onnx.TensorProto.INT32: 32, onnx.TensorProto.INT64: 64, onnx.TensorProto.BOOL: 8,
    onnx.TensorProto.FLOAT16: 16, onnx.TensorProto.DOUBLE: 64, onnx.TensorProto.UINT32: 32, onnx.TensorProto.UINT64: 64,
    onnx.TensorProto.COMPLEX64: 64, onnx.TensorProto.COMPLEX128: 128, onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.UINT4: 4, onnx.TensorProto.INT4: 4,
}  # fmt: skip
_TYPED_FIELDS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float_data", onnx.TensorProto.DOUBLE: "double_data", onnx.TensorProto.INT64: "int64_data",
    onnx.TensorProto.UINT64: "uint64_data", onnx.TensorProto.UINT32: "uint64_data", onnx.TensorProto.STRING: "string_data",
    **dict.fromkeys((onnx.TensorProto.INT32, onnx.TensorProto.INT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT16,
                     onnx.TensorProto.UINT8, onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT16,
                     onnx.TensorProto.BFLOAT16), "int32_data"),
}  # fmt: skip


def check(proto: onnx.ModelProto) -> None:
    """Check a model without touching its external data.

    Raises:
        GnOnnxError: One sentence that names the node, value or tensor, and the shape where there is one.
    """
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise GnOnnxError("holds no graph: not an ONNX model")
    if not proto.opset_import and proto.ir_version >= 3:
        raise GnOnnxError("imports no operator set: not a valid ONNX model")
    for tensor in external_data.tensors(proto):
        _check_tensor(tensor)
    _check_graph(proto.graph, frozenset())
    for function in proto.functions:
        _check_nodes(function.node, set(function.input), f"function {function.domain}::{function.name}")
    _check_calls(proto)


def _check_tensor(tensor: onnx.TensorProto) -> None:
    dims = list(tensor.dims)
    where = f"tensor {tensor.name!r} of shape {dims}"
    if any(dim < 0 for dim in dims):
        raise GnOnnxError(f"{where} has a negative dimension")
    count = math.prod(dims)
    if count > _MAX_ELEMENTS:
        raise GnOnnxError(f"{where} has {count} elements: the file is damaged")
    bits = _BITS.get(tensor.data_type)
    if external_data.is_external(tensor):
        length = external_data.reference(tensor).length
        if bits and length is not None and length < (count * bits + 7) // 8:
            raise GnOnnxError(
                f"{where} needs {(count * bits + 7) // 8} bytes, its external data has {length}"
            )
    elif tensor.HasField("raw_data"):
        if bits and len(tensor.raw_data) != (count * bits + 7) // 8:
            raise GnOnnxError(
                f"{where} needs {(count * bits + 7) // 8} bytes of data, it has {len(tensor.raw_data)}"
            )
    elif (field := _TYPED_FIELDS.get(tensor.data_type)) and len(getattr(tensor, field)) != count:
        raise GnOnnxError(f"{where} needs {count} elements, it has {len(getattr(tensor, field))}")


def _check_graph(graph: onnx.GraphProto, outer: frozenset[str]) -> None:
    where = f"graph {graph.name!r}"
    for value in (*graph.input, *graph.output, *graph.value_info):
        _check_value_shape(value, where)
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {sparse.values.name for sparse in graph.sparse_initializer}
    known = _check_nodes(graph.node, known | outer, where)
    for output in graph.output:
        if output.name not in known:
            raise GnOnnxError(f"{where}: output {output.name!r} is computed by no node")


def _check_value_shape(value: onnx.ValueInfoProto, where: str) -> None:
    if value.type.WhichOneof("value") != "tensor_type":
        return
    dims = [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
        for dim in value.type.tensor_type.shape.dim
    ]
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
                raise GnOnnxError(
                    f"{where}: value {name!r} is computed twice, by node {_label(node)} the second time"
                )
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

    cycle = _find_cycle(range(len(nodes)), inputs)
    if cycle is not None:
        raise GnOnnxError(f"{where}: node {_label(nodes[cycle])} needs its own result: the graph has a cycle")


def _check_calls(proto: onnx.ModelProto) -> None:
    """Functions may call functions, but not themselves."""
    index = {(function.domain, function.name): number for number, function in enumerate(proto.functions)}

    def callees(number: int) -> Iterator[int]:
        for node in _all_nodes(proto.functions[number].node):
            if (node.domain, node.op_type) in index:
                yield index[node.domain, node.op_type]

    recursive = _find_cycle(range(len(proto.functions)), callees)
    if recursive is not None:
        function = proto.functions[recursive]
        raise GnOnnxError(f"function {function.domain}::{function.name} calls itself")


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from _all_nodes(graph.node)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def uses(node: onnx.NodeProto) -> set[str]:
    """Names that the node reads: its inputs, and what its subgraphs take from outside."""
    names = set(filter(None, node.input))
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        used = {value.name for value in graph.output}.union(*map(uses, graph.node))
        names |= used - own
    return names


def _find_cycle(nodes: Iterable[int], successors: Callable[[int], Iterable[int]]) -> int | None:
    """Some node on a cycle, or None. Iterative: a chain of 100,000 nodes is a valid model."""
    state: dict[int, int] = {}  # 1: on the current path, 2: finished
    for start in nodes:
        if start in state:
            continue
        state[start] = 1
        path = [(start, iter(successors(start)))]
        while path:
            node, rest = path[-1]
            following = next(rest, None)
            if following is None:
                state[node] = 2
                path.pop()
            elif state.get(following) == 1:
                return following
            elif following not in state:
                state[following] = 1
                path.append((following, iter(successors(following))))
    return None


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} -> {list(node.output)[:1]}"
