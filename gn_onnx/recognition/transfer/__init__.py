"""Transfer functions: what one operator does to a fact, a few lines each.

To teach the recogniser a new operator, write its function in the file of its kind and add a line to that file's
table: `elementwise` (arithmetic), `moving` (layout only), `slices` (parts of an
axis and back), `reductions`, `contractions` (products that are summed), `normalisations` (one node that normalises).
"""

from __future__ import annotations

import onnx_ir as ir

from gn_onnx.group_norm import DOMAIN
from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.model_view import STANDARD_DOMAINS
from gn_onnx.recognition.polynomials import NotExpressible
from gn_onnx.recognition.transfer import calls, contractions, elementwise, moving, normalisations, reductions, slices
from gn_onnx.recognition.transfer.common import TransferFunction

TRANSFER: dict[str, TransferFunction] = {
    **elementwise.TABLE,
    **moving.TABLE,
    **slices.TABLE,
    **reductions.TABLE,
    **contractions.TABLE,
    **normalisations.TABLE,
}
"""Operators of the ONNX domain."""

CONTRIB: dict[str, TransferFunction] = {**normalisations.CONTRIB_TABLE}
"""Operators of the com.microsoft domain."""


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
