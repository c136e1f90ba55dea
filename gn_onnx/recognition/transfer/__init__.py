"""Transfer functions: what one operator does to a fact, a few lines each.

To teach the recogniser a new operator, write its function in the file of its kind and add a line to that file's
table: `elementwise` (arithmetic), `choices` (one operand of two), `casts`, `moving` (layout only), `slices` (parts of an
axis and back), `writes` (slices into a tensor), `reductions`, `contractions` (products that are summed),
`normalisations` (one node that normalises).
"""

from __future__ import annotations

import onnx_ir as ir

from gn_onnx.group_norm import DOMAIN
from gn_onnx.recognition.evaluation import FLOATS, Evaluation, Fact
from gn_onnx.recognition.model_view import STANDARD_DOMAINS
from gn_onnx.recognition.polynomials import Moment, NotExpressible, Root, X
from gn_onnx.recognition.transfer import (
    calls,
    casts,
    choices,
    contractions,
    elementwise,
    moving,
    normalisations,
    reductions,
    slices,
    writes,
)
from gn_onnx.recognition.transfer.common import TransferFunction

TRANSFER: dict[str, TransferFunction] = {
    **elementwise.TABLE,
    **choices.TABLE,
    **casts.TABLE,
    **moving.TABLE,
    **slices.TABLE,
    **writes.TABLE,
    **reductions.TABLE,
    **contractions.TABLE,
    **normalisations.TABLE,
}
"""Operators of the ONNX domain."""

_CALCULATES = {*reductions.TABLE, *contractions.TABLE, *elementwise.CALCULATES}
"""Operators that calculate. Integers are rounded by Div and wrap around, and are followed as sizes only (integers.py)."""

CONTRIB: dict[str, TransferFunction] = {**contractions.CONTRIB_TABLE, **normalisations.CONTRIB_TABLE}
"""Operators of the com.microsoft domain."""


def _may_be_integers(evaluation: Evaluation, node: ir.Node) -> bool:
    known = [evaluation.facts[value] for value in node.inputs if value is not None and value in evaluation.facts]
    if any(isinstance(f, X | Moment | Root) for fact in known for monomial in fact.poly for f, _ in monomial):
        return False  # x is a tensor of floats, and a cast to integers is not followed
    types = {None if value is None else evaluation.view.dtype(value) for value in node.inputs}
    if types & set(FLOATS):
        return False
    return bool(types - {None}) or node.op_type in ("Div", "Pow", "ReduceMean")


def apply(evaluation: Evaluation, node: ir.Node, depth: int = 0) -> dict[ir.Value, Fact]:
    """Facts of a node's outputs, as far as they are known.

    Raises:
        NotExpressible, LayoutError: With the reason why nothing can be said.
        Refine, Bind: When x has to be looked at again in more detail.
    """
    if node.domain == DOMAIN:
        raise NotExpressible("already a GroupNorm of ours")
    if node.op_identifier() in evaluation.view.functions:
        return calls.call(evaluation, node, depth, apply)
    if node.domain in STANDARD_DOMAINS:
        function = TRANSFER.get(node.op_type)
        if node.op_type in _CALCULATES and _may_be_integers(evaluation, node):
            raise NotExpressible("arithmetic of integers, which rounds")
    elif node.domain == "com.microsoft":
        function = CONTRIB.get(node.op_type)
    else:
        function = None
    if function is None:
        raise NotExpressible(f"{node.op_type} is not part of a normalisation")
    try:
        result = function(evaluation, node, depth)
    except (ArithmeticError, ValueError, IndexError) as e:  # a size of 0, axes out of range: no valid graph
        raise NotExpressible(f"sizes or axes that do not fit ({e})") from e
    return {node.outputs[0]: result} if isinstance(result, Fact) else result
