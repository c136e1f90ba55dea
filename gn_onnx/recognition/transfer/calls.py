"""Calls of model-local functions: the body is followed as if it stood in the caller's place."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from gn_onnx.recognition.algebra import NotExpressible
from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.layout import LayoutError

Apply = Callable[[Evaluation, ir.Node, int], dict[ir.Value, Fact]]


def call(evaluation: Evaluation, node: ir.Node, depth: int, apply: Apply) -> dict[ir.Value, Fact]:
    """Facts of a call's outputs, by following the body with the call's arguments."""
    function = evaluation.view.functions[node.op_identifier()]
    frame = evaluation.frame(function, node, depth)
    reason = ""
    for inner in function:
        try:
            frame.facts.update(apply(frame, inner, depth))
        except (NotExpressible, LayoutError) as e:
            reason = str(e)
            frame.broken.update((value, reason) for value in inner.outputs)
    facts = {
        outer: frame.facts[inner]
        for outer, inner in zip(node.outputs, function.outputs, strict=False)
        if inner in frame.facts
    }
    if not facts:
        raise NotExpressible(reason or "a function whose body is not part of a normalisation")
    return facts
