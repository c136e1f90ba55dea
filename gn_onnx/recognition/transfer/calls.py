"""Calls of model-local functions: the body is followed as if it stood in the caller's place."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.layout import LayoutError
from gn_onnx.recognition.polynomials import NotExpressible

Apply = Callable[[Evaluation, ir.Node, int], dict[ir.Value, Fact]]


def call(evaluation: Evaluation, node: ir.Node, depth: int, apply: Apply) -> dict[ir.Value, Fact]:
    """Facts of a call's outputs, by following the body with the call's arguments."""
    function = evaluation.view.functions[node.op_identifier()]
    frame = evaluation.frame(function, node, depth)
    reason = ""
    for body_node in function:
        try:
            frame.facts.update(apply(frame, body_node, depth))
        except (NotExpressible, LayoutError) as e:
            reason = str(e)
            if any(value in frame.facts or value in frame.broken for value in body_node.inputs if value is not None):
                frame.broken.update((value, reason) for value in body_node.outputs)
    for inner in function.outputs:
        if inner in frame.facts:
            frame.check_nothing_hidden(inner)
    facts = {
        outer: frame.facts[inner]
        for outer, inner in zip(node.outputs, function.outputs, strict=False)
        if inner in frame.facts
    }
    if not facts:
        raise NotExpressible(reason or "a function whose body is not part of a normalisation")
    return facts
