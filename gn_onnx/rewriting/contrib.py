"""ONNX Runtime's GroupNorm with something inside of the node, written as the parts that are recognised.

Its optimiser for diffusion models makes com.microsoft::GroupNorm, whose activation may be SiLU, and SkipGroupNorm,
which adds a second tensor, and a bias, to its input first and hands out the sum too. ONNX Runtime runs them with CUDA
only.
"""

from __future__ import annotations

import onnx_ir as ir

from gn_onnx.recognition.model_view import ModelView
from gn_onnx.rewriting.building import Builder, Constants, Namer, all_nodes
from gn_onnx.rewriting.opsets import onnx_opset
from gn_onnx.rewriting.rewrite import remove_dead, take_over

_DOMAIN = "com.microsoft"
_SILU = 1


def holds_compounds(model: ir.Model) -> bool:
    """Whether `split_compounds` has anything to do."""
    return any(_is_compound(node) for node in all_nodes(model))


def split_compounds(model: ir.Model) -> None:
    """Sum, GroupNorm and activation as nodes of their own, in place. What is not understood stays."""
    compounds = [node for node in all_nodes(model) if _is_compound(node)]
    if not compounds:
        return
    view, constants, opset = ModelView(model), Constants(Namer(model)), onnx_opset(model)
    dtypes = {node: _dtype(view, node) for node in compounds}
    ranks = {node: _ranks(view, node) for node in compounds}
    bodies = {function.graph for function in model.functions.values()}
    for node in compounds:
        dtype = dtypes[node]
        if dtype is not None and isinstance(node.graph, ir.Graph) and _fits(node, ranks[node]):
            builder = Builder(
                node.graph, node.name or node.outputs[0].name or "group_norm", constants, dtype, opset,
                in_function=node.graph in bodies,
            )  # fmt: skip
            _split(node, builder, ranks[node])


def _is_compound(node: ir.Node) -> bool:
    if node.domain != _DOMAIN or any(attribute.is_ref() for attribute in node.attributes.values()):
        return False
    return node.op_type == "SkipGroupNorm" or (node.op_type == "GroupNorm" and _activation(node) == _SILU)


def _activation(node: ir.Node) -> int:
    attribute = node.attributes.get("activation")
    return 0 if attribute is None else attribute.as_int()


def _dtype(view: ModelView, node: ir.Node) -> ir.DataType | None:
    values = (*node.outputs[:1], *node.inputs[:1])
    return next((dtype for value in values if value is not None and (dtype := view.dtype(value)) is not None), None)


def _ranks(view: ModelView, node: ir.Node) -> list[int | None]:
    shapes = [None if value is None else view.shape(value) for value in node.inputs]
    return [None if shape is None else len(shape) for shape in shapes]


def _fits(node: ir.Node, ranks: list[int | None]) -> bool:
    if _activation(node) not in (0, _SILU) or len(node.inputs) < 3 or None in node.inputs[:3]:
        return False
    if node.op_type == "GroupNorm":
        return True
    # The second tensor is of x's shape, [N, 1, 1, C], or [N, C], which has to be told from the first two.
    return len(node.inputs) > 3 and ranks[3] in (2, 4) and ranks[0] == 4


def _split(node: ir.Node, builder: Builder, ranks: list[int | None]) -> None:
    x, scale, bias = node.inputs[:3]
    assert x is not None and scale is not None and bias is not None
    if node.op_type == "SkipGroupNorm":
        skip, shift = node.inputs[3], node.inputs[4] if len(node.inputs) > 4 else None
        assert skip is not None
        if ranks[3] == 2:
            skip = builder.with_axes("Unsqueeze", skip, [1, 2], "skip")
        x = builder.node("Add", [x, skip], "sum")
        if shift is not None:
            x = builder.node("Add", [x, shift], "sum_and_bias")
    kept = {name: a.value for name, a in node.attributes.items() if name in ("channels_last", "epsilon", "groups")}
    y = builder.node("GroupNorm", [x, scale, bias], "GroupNorm", domain=_DOMAIN, activation=0, **kept)
    if _activation(node) == _SILU:
        y = builder.node("Mul", [y, builder.node("Sigmoid", [y], "gate")], "silu")
    for made in builder.nodes:
        made.metadata_props.update(node.metadata_props)
    builder.graph.insert_before(node, builder.nodes)
    take_over(node.outputs[0], y, builder.constants.namer)
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        take_over(node.outputs[1], x, builder.constants.namer)
    remove_dead(node)
