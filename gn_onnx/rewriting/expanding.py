"""Our operators back to ONNX's: calls are replaced by their bodies, and what is constant in those is computed.

What is left of a body is a Reshape, InstanceNormalization, a Reshape, Mul, Add, and a Reshape to the input's shape.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from gn_onnx.errors import GnOnnxError
from gn_onnx.group_norm import DOMAIN, OP_TYPE
from gn_onnx.recognition.model_view import STANDARD_DOMAINS, ModelView
from gn_onnx.rewriting.building import Builder, Constants, Namer, all_nodes
from gn_onnx.rewriting.opsets import onnx_opset
from gn_onnx.rewriting.rewrite import declare, remove_dead

_PER_CHANNEL_OPSET = 21


def uses_ours(model: ir.Model) -> bool:
    """Whether any node of the model is one of our operators."""
    return any(node.domain == DOMAIN for node in all_nodes(model))


def expand(model: ir.Model, *, standard: bool = False) -> ir.Model:
    """A model without nodes of ours; `model` is used up.

    Args:
        model: The model.
        standard: Expand ai.onnx GroupNormalization (opset 21) too.

    Raises:
        GnOnnxError: When a node of ours has an unknown name.
    """
    opset = onnx_opset(model)
    if standard and opset >= _PER_CHANNEL_OPSET:
        for node in all_nodes(model):
            if node.domain in STANDARD_DOMAINS and node.op_type == OP_TYPE:
                node.domain = DOMAIN
    if not uses_ours(model):
        return model
    ir_version = model.ir_version
    declare(model, opset)
    for node in all_nodes(model):
        if node.domain == DOMAIN and node.op_identifier() not in model.functions:
            raise GnOnnxError(f"node {node.name!r}: {DOMAIN}::{node.op_type} is not an operator of this version")
    before = set(all_nodes(model))
    model = InlinePass(criteria=lambda function: function.domain == DOMAIN)(model).model
    model.ir_version = ir_version
    for container in _containers(model):
        container.opset_imports.pop(DOMAIN, None)
    _fold(model, [node for node in all_nodes(model) if node not in before])
    return model


def _containers(model: ir.Model) -> list[ir.Graph | ir.Function]:
    return [model.graph, *model.functions.values()]


def _fold(model: ir.Model, nodes: list[ir.Node]) -> None:
    """Puts constants in the place of those of `nodes` that compute them."""
    constants = Constants(Namer(model))
    bodies = {function.graph for function in model.functions.values()}
    view = ModelView(model)
    arrays = {node: view.folded(node.outputs[0]) for node in nodes}
    known = {node: array for node, array in arrays.items() if array is not None}
    for node, array in known.items():
        if node.op_type != "Constant" or node.graph not in bodies:
            _replace(node, array, known, constants, in_function=node.graph in bodies)
    for node in reversed(known):
        remove_dead(node)


def _replace(
    node: ir.Node, array: np.ndarray, known: Mapping[ir.Node, np.ndarray], constants: Constants, *, in_function: bool
) -> None:
    """A constant for those users of the node that are not constant themselves."""
    (output,) = node.outputs
    users = [(user, index) for user, index in output.uses() if user not in known]
    if users and isinstance(node.graph, ir.Graph):
        dtype = ir.DataType.from_numpy(array.dtype)
        builder = Builder(node.graph, output.name or "constant", constants, dtype, 0, in_function=in_function)
        value = builder.constant(array, dtype, "folded")
        node.graph.insert_before(node, builder.nodes)
        for user, index in users:
            user.replace_input_with(index, value)
