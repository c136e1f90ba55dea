"""A GroupNorm between two Transposes that undo each other works on the data as it lies there, without them.

    y = Transpose(activation(GroupNorm(Transpose(x, p))), inverse of p)

GroupNorm and the activation do not look at the order of spatial axes, so that only one thing changes: where the channel
axis lies. Without an activation the recogniser sees the same by algebra; this is for the values behind one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import onnx_ir as ir

from gn_onnx.group_norm import GroupNorm
from gn_onnx.recognition.model_view import STANDARD_DOMAINS


def across_transposes(group_norms: Iterable[GroupNorm]) -> list[GroupNorm]:
    """The records, extended over the Transposes on both sides where nothing else uses what lies between."""
    return [_extended(group_norm) or group_norm for group_norm in group_norms]


def _extended(group_norm: GroupNorm) -> GroupNorm | None:
    first, output = group_norm.x.producer(), group_norm.output
    uses = output.uses()
    if (
        first is None
        or output.is_graph_output()
        or len(uses) != 1
        or group_norm.x_shape is not None
        or group_norm.one_sample
    ):
        return None
    ((last, _),) = uses
    before, after = _permutation(first, group_norm.rank), _permutation(last, group_norm.rank)
    if before is None or after is None or last.graph is not first.graph or last.graph is not _container(group_norm):
        return None
    if any(after[axis] != before.index(axis) for axis in range(group_norm.rank)) or before[0] != 0:
        return None
    channel_axis = before[-1 if group_norm.channels_last else 1]
    if channel_axis not in (1, group_norm.rank - 1) or _shape_is_asked_for(group_norm):
        return None
    x = first.inputs[0]
    assert x is not None, "a Transpose has an input"
    return dataclasses.replace(
        group_norm,
        x=x,
        output=last.outputs[0],
        sizes=None if group_norm.sizes is None else tuple(group_norm.sizes[axis] for axis in after),
        channels_last=channel_axis != 1,
        shaped_like_x=(),
        node_names=(first.name or "", *group_norm.node_names, last.name or ""),
    )


def _container(group_norm: GroupNorm) -> ir.Graph | ir.Function | None:
    producer = group_norm.output.producer()
    return None if producer is None else producer.graph


def _permutation(node: ir.Node, rank: int) -> list[int] | None:
    """What a Transpose of `rank` axes does to them; None for other nodes, and where its attribute is the caller's."""
    if node.op_type != "Transpose" or node.domain not in STANDARD_DOMAINS:
        return None
    attribute = node.attributes.get("perm")
    if attribute is None:
        return list(range(rank))[::-1]
    permutation = None if attribute.is_ref() else list(attribute.as_ints())
    return permutation if permutation is not None and sorted(permutation) == list(range(rank)) else None


def _shape_is_asked_for(group_norm: GroupNorm) -> bool:
    """Whether a value on the way is asked for its shape, which is not that of the new x."""
    values = [value for value in group_norm.shaped_like_x if value is not group_norm.x]
    return any(node.op_type == "Shape" for value in values for node, _ in value.uses())
