"""Normalisations whose attributes no kernel can compute with; our own operators have no schema in onnx, so all of theirs.

Imports: onnx.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx

from gn_onnx.errors import GnOnnxError
from gn_onnx.group_norm import DOMAIN, OP_TYPE

_INT, _FLOAT = onnx.AttributeProto.INT, onnx.AttributeProto.FLOAT
_TYPES = {"num_groups": _INT, "stash_type": _INT, "epsilon": _FLOAT, "alpha": _FLOAT}
_INPUTS = ("X", "scale", "bias")


def check_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    """Check the normalisations among the nodes.

    Raises:
        GnOnnxError: num_groups is below 1, or epsilon is not a finite number; for our own operators also an attribute of
            another type, a missing num_groups or other inputs than X, scale and bias.
    """
    for node in nodes:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.domain == DOMAIN and node.op_type.startswith(OP_TYPE):
            _check_ours(node, attributes)
        # A reference to a function's own attribute has no value yet.
        groups, epsilon = (attributes.get(name) for name in ("num_groups", "epsilon"))
        if groups is not None and not groups.ref_attr_name and groups.type == _INT and groups.i < 1:
            raise GnOnnxError(f"node {_label(node)}: num_groups is {groups.i}, expected at least 1")
        if epsilon is not None and not epsilon.ref_attr_name and epsilon.type == _FLOAT and not math.isfinite(epsilon.f):
            raise GnOnnxError(f"node {_label(node)}: epsilon is {epsilon.f}, expected a finite number")


def _check_ours(node: onnx.NodeProto, attributes: dict[str, onnx.AttributeProto]) -> None:
    kinds = onnx.AttributeProto.AttributeType
    for name, attribute in attributes.items():
        kind = _TYPES.get(name, attribute.type)
        if attribute.type != kind:
            found = kinds.Name(attribute.type)
            raise GnOnnxError(f"node {_label(node)}: attribute {name!r} is of type {found}, not {kinds.Name(kind)}")
    if "num_groups" not in attributes:
        raise GnOnnxError(f"node {_label(node)} lacks the attribute 'num_groups'")
    if len(node.input) != len(_INPUTS) or not all(node.input):
        raise GnOnnxError(f"node {_label(node)} has the inputs {list(node.input)}, expected {', '.join(_INPUTS)}")


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} -> {list(node.output)[:1]}"
