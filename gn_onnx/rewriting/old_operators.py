"""Operators that ONNX's converter brings to a newer opset with another meaning.

Resize 10 and Upsample sample at output position / scale, the newer Resize by default at the centres of pixels. Hardmax
before opset 13 takes all axes from `axis` on as one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gn_onnx.errors import GnOnnxError
from gn_onnx.recognition.model_view import STANDARD_DOMAINS
from gn_onnx.rewriting.counterparts import counterpart_nodes

_RESIZE_WITH_MODES = 11
_HARDMAX_OF_ONE_AXIS = 13


def check(model: ir.Model, opset: int, version: int) -> None:
    """Raises GnOnnxError for an operator that has no equal in opset `version`."""
    for node in model.graph.all_nodes():
        if node.domain not in STANDARD_DOMAINS:
            continue
        reason = ""
        if node.op_type == "Hardmax" and opset < _HARDMAX_OF_ONE_AXIS and not _is_over_last_axis(node):
            reason = "Hardmax over several axes"
        elif _samples_as_before(node, opset) and _mode(node) == "nearest" and _nearest_mode(node) is None:
            reason = f"{node.op_type} to the nearest by scales that are only known at run time, or both above and below 1"
        if reason:
            raise GnOnnxError(
                f"the model cannot be brought from opset {opset} to {version}: node {node.name or node.outputs[0].name!r}:"
                f" {reason}"
            )


def restore(before: ir.Graph, after: ir.Graph, opset: int) -> None:
    """Gives the Resize nodes of a converted graph the modes that they had by default."""
    for old, new in counterpart_nodes(before, after):
        if new.op_type == "Resize" and _samples_as_before(old, opset):
            new.attributes["coordinate_transformation_mode"] = ir.AttrString("coordinate_transformation_mode", "asymmetric")
            if _mode(old) == "nearest":
                new.attributes["nearest_mode"] = ir.AttrString("nearest_mode", _nearest_mode(old) or "floor")


def _samples_as_before(node: ir.Node, opset: int) -> bool:
    return opset < _RESIZE_WITH_MODES and node.op_type in ("Resize", "Upsample")


def _mode(node: ir.Node) -> str:
    attribute = node.attributes.get("mode")
    return "nearest" if attribute is None else attribute.as_string()


def _nearest_mode(node: ir.Node) -> str | None:
    """Positions between two pixels: the lower one where the picture grows, the upper one where it shrinks."""
    if node.op_type == "Upsample":
        return "floor"
    value = node.inputs[1]
    tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    if tensor is None:
        return None
    scales = tensor.numpy()
    if np.all(scales >= 1):
        return "floor"
    return "ceil" if np.all(scales <= 1) else None


def _is_over_last_axis(node: ir.Node) -> bool:
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    return axis == -1 or (shape is not None and axis == len(shape) - 1)
