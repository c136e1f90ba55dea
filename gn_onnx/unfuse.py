"""Back to portable operators: every node of ours is replaced by its function body."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from gn_onnx.errors import GnOnnxError
from gn_onnx.files import model_io
from gn_onnx.group_norm import DOMAIN, OP_TYPE
from gn_onnx.recognition.model_view import STANDARD_DOMAINS
from gn_onnx.rewriting.opsets import onnx_opset
from gn_onnx.rewriting.rewrite import declare

_PER_CHANNEL_OPSET = 21


def unfuse(model: ir.Model | onnx.ModelProto, *, standard: bool = False) -> ir.Model | onnx.ModelProto:
    """A model without nodes of ours, for runtimes that know neither our operators nor model-local functions.

    Args:
        model: Not changed; the result is of the same kind.
        standard: Expand ai.onnx GroupNormalization (opset 21) too.

    Raises:
        GnOnnxError: When a node of ours has an unknown name.
    """
    if isinstance(model, onnx.ModelProto):
        return model_io.to_proto(_unfused(model_io.to_ir(model), standard=standard), like=model)
    return _unfused(model.clone(), standard=standard)


def _unfused(model: ir.Model, *, standard: bool) -> ir.Model:
    if standard and onnx_opset(model) >= _PER_CHANNEL_OPSET:
        for node in model.graph.all_nodes():
            if node.domain in STANDARD_DOMAINS and node.op_type == OP_TYPE:
                node.domain = DOMAIN
    declare(model, onnx_opset(model))
    for node in model.graph.all_nodes():
        if node.domain == DOMAIN and node.op_identifier() not in model.functions:
            raise GnOnnxError(f"node {node.name!r}: {DOMAIN}::{node.op_type} is not an operator of this version")
    model = InlinePass(criteria=lambda function: function.domain == DOMAIN)(model).model
    containers: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for container in containers:
        container.opset_imports.pop(DOMAIN, None)
    return model
