"""Brings a model to a newer opset of the ONNX domain, with ONNX's own converter, without touching its weights.

The converter works on a copy in which every weight is an input, so that external data stays where it is. Two things that
it gets wrong are kept from it: GroupNormalization of opset 18 is replaced before (see rewrite.py), and model-local
functions, which it drops, are inlined.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import version_converter
from onnx_ir.passes.common import InlinePass

from gn_onnx.errors import GnOnnxError

_MAX_CARRIED_ELEMENTS = 1024
"""Larger initializers are weights; smaller ones may be axes or shapes that an adapter wants to see."""


def onnx_opset(model: ir.Model) -> int:
    """Version of the ONNX domain that the model imports; 1 when it imports none."""
    imports = model.graph.opset_imports
    return imports.get("", imports.get("ai.onnx", 1))


def converted(model: ir.Model, version: int) -> ir.Model:
    """A model in opset `version` that computes the same; `model` is used up.

    Raises:
        GnOnnxError: When the converter has no way, or its result is not a valid model.
    """
    old = onnx_opset(model)
    if model.functions:
        model = InlinePass()(model).model
    weights = _weights_to_inputs(model.graph)
    proto = ir.to_proto(model)
    try:
        newer = version_converter.convert_version(proto, version)
        onnx.checker.check_model(newer)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GnOnnxError(f"the model cannot be brought from opset {old} to {version}: {reason}") from error
    if {n.op_type for n in proto.graph.node if n.domain == "" and n.op_type == "GroupNormalization"}:
        raise GnOnnxError(
            f"the model cannot be brought to opset {version}: a GroupNormalization of opset 18 would stay in it"
        )
    result = ir.from_proto(newer)
    _inputs_to_weights(result.graph, weights)
    result.ir_version = max(model.ir_version, result.ir_version, onnx.helper.VERSION_TABLE[0][1])
    result.metadata_props.update(model.metadata_props)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.domain, result.model_version, result.doc_string = model.domain, model.model_version, model.doc_string
    result.graph.name, result.graph.doc_string = model.graph.name, model.graph.doc_string
    return result


def _weights_to_inputs(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    weights: dict[str, ir.TensorProtocol] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        external = isinstance(tensor, ir.ExternalTensor)
        if tensor is None or value.is_graph_input() or (tensor.size <= _MAX_CARRIED_ELEMENTS and not external):
            continue
        weights[name] = tensor
        del graph.initializers[name]
        value.const_value = None
        value.shape, value.type = ir.Shape([d for d in tensor.shape if isinstance(d, int)]), ir.TensorType(tensor.dtype)
        graph.inputs.append(value)
    return weights


def _inputs_to_weights(graph: ir.Graph, weights: dict[str, ir.TensorProtocol]) -> None:
    for value in list(graph.inputs):
        if value.name in weights:
            graph.inputs.remove(value)
            value.const_value = weights[value.name]
            graph.register_initializer(value)
