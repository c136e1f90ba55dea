"""Walking over protobuf graphs: subgraphs, what a node reads, order and cycles. Imports: onnx."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Bodies of If, Loop, Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def uses(node: onnx.NodeProto) -> set[str]:
    """Names that the node reads: its inputs, and what its subgraphs take from outside."""
    names = set(filter(None, node.input))
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {sparse.values.name for sparse in graph.sparse_initializer}
        own |= {name for inner in graph.node for name in inner.output}
        used = {value.name for value in graph.output}.union(*map(uses, graph.node))
        names |= used - own
    return names


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from all_nodes(graph.node)


def all_graphs(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The main graph and all inside nodes, of functions too."""
    found = [proto.graph]
    for function in proto.functions:
        found += [graph for node in function.node for graph in subgraphs(node)]
    for graph in found:
        found += [inner for node in graph.node for inner in subgraphs(node)]
    return found


def is_sorted(proto: onnx.ModelProto) -> bool:
    """Whether every node comes behind those that compute its inputs."""
    lists = [proto.graph.node, *(function.node for function in proto.functions)]
    lists += [graph.node for nodes in tuple(lists) for node in all_nodes(nodes) for graph in subgraphs(node)]
    for nodes in lists:
        position = {name: i for i, node in enumerate(nodes) for name in node.output if name}
        if any(position.get(name, -1) >= i for i, node in enumerate(nodes) for name in uses(node)):
            return False
    return True


def sort(proto: onnx.ModelProto) -> None:
    """Bring nodes into an order in which inputs come first, in place. Most models are; runtimes accept all.

    Nodes that are in order keep their places. The graph must be free of cycles (`check`).
    """
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        _sort_nodes(nodes)


def _sort_nodes(nodes: Any) -> None:
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [[producer[name] for name in uses(node) if name in producer] for node in nodes]
    for node in nodes:
        for graph in subgraphs(node):
            _sort_nodes(graph.node)
    if all(need < index for index, list_ in enumerate(needs) for need in list_):
        return
    order: dict[int, None] = {}
    for first in range(len(nodes)):
        entered: set[int] = set()
        pending = [first]
        while pending:
            index = pending[-1]
            if index not in order and index not in entered:
                entered.add(index)
                # What was entered before and is not finished would be a cycle; it ends here, whatever the graph.
                pending.extend(need for need in reversed(needs[index]) if need not in order and need not in entered)
            else:
                pending.pop()
                order.setdefault(index)
    copies = [onnx.NodeProto.FromString(nodes[index].SerializeToString()) for index in order]
    del nodes[:]
    nodes.extend(copies)


def key_of(function: onnx.FunctionProto) -> tuple[str, str, str]:
    """What tells a function from the others of its model."""
    return function.domain, function.name, function.overload


def called_by(node: onnx.NodeProto) -> tuple[str, str, str]:
    """The key of the function that a node calls, where it calls one."""
    return node.domain, node.op_type, node.overload


def callees_first(functions: Sequence[onnx.FunctionProto]) -> list[onnx.FunctionProto]:
    """Functions behind those that they call: onnx.reference knows only what it has seen. None may call itself (`check`)."""
    index = {key_of(function): number for number, function in enumerate(functions)}
    order: dict[int, None] = {}
    pending = list(reversed(range(len(functions))))
    entered: set[int] = set()
    while pending:
        number = pending[-1]
        if number in order or number in entered:
            order.setdefault(pending.pop())
            continue
        entered.add(number)
        called = (index.get(called_by(node)) for node in all_nodes(functions[number].node))
        pending.extend(callee for callee in called if callee is not None and callee not in entered)
    return [functions[number] for number in order]


def find_cycle(nodes: Iterable[int], successors: Callable[[int], Iterable[int]]) -> int | None:
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
