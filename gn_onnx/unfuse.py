"""Back to portable operators: every node of ours is replaced by its function body."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from gn_onnx.files import model_io
from gn_onnx.rewriting.expanding import expand


def unfuse(model: ir.Model | onnx.ModelProto, *, standard: bool = False) -> ir.Model | onnx.ModelProto:
    """A model without nodes of ours, for runtimes that know neither our operators nor model-local functions.

    Args:
        model: Not changed; the result is of the same kind.
        standard: Expand ai.onnx GroupNormalization (opset 21) too.

    Raises:
        GnOnnxError: When a node of ours has an unknown name.
    """
    if isinstance(model, onnx.ModelProto):
        return model_io.to_proto(expand(model_io.to_ir(model), standard=standard), like=model)
    return expand(model.clone(), standard=standard)
