"""Brings a model to a newer opset of the ONNX domain, with ONNX's own converter, without touching its weights.

The converter works on a copy in which every weight is an input, so that external data stays where it is. What it gets
wrong is kept from it: GroupNormalization of opset 18 is replaced before (see rewrite.py), model-local functions, which it
drops, are inlined, and see old_operators.py. What it forgets (documentation, metadata, shapes) is brought back afterwards.
"""

from __future__ import annotations

import dataclasses

import onnx
import onnx_ir as ir
from onnx import version_converter
from onnx_ir.passes.common import InlinePass

from gn_onnx.errors import GnOnnxError
from gn_onnx.files import kept
from gn_onnx.rewriting import old_operators
from gn_onnx.rewriting.counterparts import annotate, counterparts

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
        model = _inlined(model)
    old_operators.check(model, old, version)
    weights = _weights_to_inputs(model.graph)
    proto = ir.to_proto(model)
    kept.trailing_outputs(proto, model)
    if {n.op_type for n in proto.graph.node if n.domain == "" and n.op_type == "GroupNormalization"}:
        raise GnOnnxError(
            f"the model cannot be brought to opset {version}: a GroupNormalization of opset 18 would stay in it"
        )
    try:
        newer = version_converter.convert_version(proto, version)
        _check(newer)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GnOnnxError(f"the model cannot be brought from opset {old} to {version}: {reason}") from error
    result = ir.from_proto(newer)
    pairs = counterparts(model.graph, result.graph)
    _inputs_to_weights(result.graph, weights, pairs)
    for before, after in pairs.items():
        annotate(before, after)
        old_operators.restore(before, after, old)
    result.ir_version = max(model.ir_version, result.ir_version, onnx.helper.VERSION_TABLE[0][1])
    result.metadata_props.update(model.metadata_props)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.domain, result.model_version, result.doc_string = model.domain, model.model_version, model.doc_string
    return result


def _check(proto: onnx.ModelProto) -> None:
    """Raises ValidationError. An output may be without a shape: ONNX Runtime takes it, and detectors have such ones."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for value in copy.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(copy)


def raise_import(function: ir.Function, version: int) -> bool:
    """Whether a function computes the same in opset `version`, which it then imports: no operator in it has changed."""
    old = function.opset_imports.get("", version)
    for node in function.all_nodes():
        if node.domain == "":
            schemas = [onnx.defs.get_schema(node.op_type, opset, "") for opset in (old, version)]
            if schemas[0].since_version != schemas[1].since_version:
                return False
    function.opset_imports[""] = version
    return True


def _inlined(model: ir.Model) -> ir.Model:
    """Without functions, and without the imports that only their calls needed."""
    domains = {function.domain for function in model.functions.values()}
    model = InlinePass()(model).model
    used = {node.domain for node in model.graph.all_nodes()}
    for domain in domains - used - {"", "ai.onnx"}:
        model.graph.opset_imports.pop(domain, None)
    return model


@dataclasses.dataclass(frozen=True)
class _Weight:
    """An initializer that is an input of the main graph for a while, under a name of its own."""

    home: ir.Graph
    name: str
    tensor: ir.TensorProtocol


def _weights_to_inputs(main: ir.Graph) -> dict[str, _Weight]:
    """The weights of a graph and of those inside it, by the names that they have as inputs."""
    weights: dict[str, _Weight] = {}
    for number, graph in enumerate((main, *main.subgraphs())):
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            external = isinstance(tensor, ir.ExternalTensor)
            if tensor is None or value.is_graph_input() or (tensor.size <= _MAX_CARRIED_ELEMENTS and not external):
                continue
            if value.is_graph_output() and graph is not main:
                continue  # a branch has to compute its outputs or hold them
            del graph.initializers[name]
            value.const_value = None
            value.shape, value.type = ir.Shape([d for d in tensor.shape if isinstance(d, int)]), ir.TensorType(tensor.dtype)
            if graph is not main:
                value.name = f"{name}/weight_{number}"
            weights[value.name or name] = _Weight(graph, name, tensor)
            main.inputs.append(value)
    return weights


def _inputs_to_weights(main: ir.Graph, weights: dict[str, _Weight], pairs: dict[ir.Graph, ir.Graph]) -> None:
    """Puts the weights back, each in the counterpart of the graph that had it."""
    for value in list(main.inputs):
        weight = weights.get(value.name or "")
        if weight is None:
            continue
        main.inputs.remove(value)
        home = pairs.get(weight.home, main)
        if home is not main:
            value.name = weight.name
        value.const_value = weight.tensor
        home.register_initializer(value)
