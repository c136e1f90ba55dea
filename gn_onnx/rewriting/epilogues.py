"""The activation behind a GroupNorm, taken into the node where nothing else uses the normalised value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from gn_onnx.group_norm import GroupNorm
from gn_onnx.recognition.model_view import ModelView
from gn_onnx.rewriting.activations import Activation, activations


def with_epilogues(model: ir.Model, group_norms: Iterable[GroupNorm]) -> list[GroupNorm]:
    """The records, extended over the activation that follows where there is one of ours."""
    view = ModelView(model)
    inputs = {group_norm.x for group_norm in group_norms}
    extended = []
    for group_norm in group_norms:
        found = None if group_norm.activation != "none" else _find(view, group_norm)
        # The value between may be another GroupNorm's input: then it has to stay.
        if found is None or group_norm.output in inputs:
            extended.append(group_norm)
            continue
        more = _names_between(group_norm.output, found.output)
        extended.append(
            dataclasses.replace(
                group_norm,
                output=found.output,
                activation=found.name,
                alpha=found.alpha,
                node_names=(*group_norm.node_names, *more),
            )
        )
    return extended


def _find(view: ModelView, group_norm: GroupNorm) -> Activation | None:
    y, producer = group_norm.output, group_norm.output.producer()
    if y.is_graph_output() or producer is None:
        return None
    users = [node for node, _ in y.uses() if node.op_type != "Shape"]
    for found in activations(view, y, group_norm.rank):
        end = found.output.producer()
        # Not into the body of a loop, which would compute the GroupNorm in every turn.
        if end is not None and end.graph is producer.graph and _only_leads_to(users, end):
            return found
    return None


def _only_leads_to(users: Sequence[ir.Node], end: ir.Node) -> bool:
    """Whether everything computed from the normalised value ends in the node `end`."""
    stack, seen = list(users), set(users)
    while stack:
        node = stack.pop()
        if node is end:
            continue
        for value in node.outputs:
            if value.is_graph_output() or (not value.uses() and len(node.outputs) == 1):
                return False
            for user, _ in value.uses():
                if user not in seen:
                    seen.add(user)
                    stack.append(user)
        if len(seen) > 16:
            return False
    return True


def _names_between(y: ir.Value, output: ir.Value) -> list[str]:
    names: list[str] = []
    stack = [output]
    while stack:
        node = stack.pop().producer()
        if node is None or (node.name or "") in names:
            continue
        names.insert(0, node.name or "")
        stack.extend(v for v in node.inputs if v is not None and v is not y and v.producer() is not None and _uses(v, y))
    return names


def _uses(value: ir.Value, y: ir.Value) -> bool:
    """Whether `value` is computed from y within a few steps."""
    frontier = [value]
    for _ in range(4):
        producers = [v.producer() for v in frontier]
        frontier = [i for p in producers if p is not None for i in p.inputs if i is not None]
        if y in frontier:
            return True
    return False
