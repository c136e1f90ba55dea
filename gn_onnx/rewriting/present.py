"""Nodes of ours that a model has already: exported with them, or fused without activations."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir

from gn_onnx.group_norm import DOMAIN, OP_TYPE, GroupNorm, PerChannel, op_type
from gn_onnx.recognition.model_view import ModelView

_PLAIN = {op_type("none", channels_last=last): last for last in (False, True)}


def plain_nodes(model: ir.Model) -> list[GroupNorm]:
    """A record for every node of ours that has no activation yet, in graph order."""
    nodes = [node for node in _nodes(model) if node.domain == DOMAIN and node.op_type in _PLAIN]
    if not nodes:
        return []
    view = ModelView(model)
    return [record for node in nodes if (record := _record(view, node)) is not None]


def lacks_bodies(model: ir.Model) -> bool:
    """Whether a node of ours is not backed by a function: the model runs with our library only."""
    known: Collection[ir.OperatorIdentifier] = model.functions
    return any(node.domain == DOMAIN and node.op_identifier() not in known for node in _nodes(model))


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        if function.domain != DOMAIN:
            yield from function.all_nodes()


def _record(view: ModelView, node: ir.Node) -> GroupNorm | None:
    """None where the model does not tell enough: an attribute that a function's caller gives, an unknown rank or type."""
    x, scale, bias = node.inputs
    groups, epsilon, stash_type = (node.attributes.get(name) for name in ("num_groups", "epsilon", "stash_type"))
    if x is None or scale is None or bias is None or groups is None or any(a.is_ref() for a in node.attributes.values()):
        return None
    sizes, dtype = view.shape(x), view.dtype(x)
    if sizes is None or dtype is None:
        return None
    last = _PLAIN[node.op_type]
    return GroupNorm(
        x=x,
        output=node.outputs[0],
        num_groups=groups.as_int(),
        epsilon=1e-5 if epsilon is None else epsilon.as_float(),
        scale=PerChannel(((np.ones(()), (scale,)),)),
        bias=PerChannel(((np.ones(()), (bias,)),)),
        dtype=dtype,
        rank=len(sizes),
        sizes=tuple(size.static for size in sizes),
        num_channels=sizes[-1 if last else 1].static,
        stash_type=1 if stash_type is None else stash_type.as_int(),
        channels_last=last,
        core=OP_TYPE,
        node_names=(node.name or "",),
    )
