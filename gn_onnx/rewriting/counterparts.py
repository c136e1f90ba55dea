"""Which graph of a converted model is which one of the original, and what the original says about its values and nodes.

A converter keeps the names of values and of nodes: nodes that compute a value of the same name or have the same name
are counterparts, and so are their bodies. It does not keep documentation, metadata or all shapes.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from gn_onnx.rewriting import devices


def counterparts(before: ir.Graph, after: ir.Graph) -> dict[ir.Graph, ir.Graph]:
    """`before` and the graphs inside its nodes, each with the one in `after` that has its place."""
    pairs = {before: after}
    stack = [(before, after)]
    while stack:
        old, new = stack.pop()
        for node, counterpart in counterpart_nodes(old, new):
            for name, attribute in node.attributes.items():
                other = counterpart.attributes.get(name)
                if attribute.is_ref() or other is None or other.type != ir.AttributeType.GRAPH or other.is_ref():
                    continue
                pairs[attribute.as_graph()] = other.as_graph()
                stack.append((attribute.as_graph(), other.as_graph()))
    return pairs


def annotate(before: ir.Graph, after: ir.Graph) -> None:
    """What `before` says about itself, its nodes and values, is said in `after` too; what is there already stays."""
    after.name, after.doc_string = before.name, before.doc_string
    after.metadata_props.update(before.metadata_props)
    names = {node.name for node in after}
    now = {value.name: value for value in _values(after)}
    for node, counterpart in counterpart_nodes(before, after):
        if not counterpart.name and node.name not in names:
            counterpart.name = node.name
        counterpart.doc_string = counterpart.doc_string or node.doc_string
        counterpart.metadata_props.update(node.metadata_props)
        devices.take_over(counterpart, devices.configurations_of(node), lambda value: now.get(value.name))
    values = {value.name: value for value in _values(before)}
    for value in now.values():
        known = values.get(value.name)
        if known is not None:
            value.shape = known.shape if value.shape is None else value.shape
            value.type = value.type or known.type
            value.doc_string = value.doc_string or known.doc_string
            value.metadata_props.update(known.metadata_props)
            value.meta.update(known.meta)


def counterpart_nodes(before: ir.Graph, after: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Nodes of `before`, each with a counterpart; one that became several nodes comes several times."""
    producers = {value.name: node for node in before for value in node.outputs if value.name}
    named = {node.name: node for node in before if node.name}
    for counterpart in after:
        node = next((producers[value.name] for value in counterpart.outputs if value.name in producers), None)
        node = node or named.get(counterpart.name or "")
        if node is not None:
            yield node, counterpart


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
