"""Cast and CastLike: one float for another, and numbers of truth values."""

from __future__ import annotations

import onnx_ir as ir

from gn_onnx.recognition.evaluation import FLOATS, Evaluation, Fact
from gn_onnx.recognition.polynomials import NotExpressible, constant
from gn_onnx.recognition.transfer.choices import shape_of, truth
from gn_onnx.recognition.transfer.common import TransferFunction, int_attribute, operand


def _cast(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    to = ir.DataType(int_attribute(evaluation, node, "to", 0))
    if to not in FLOATS:
        raise NotExpressible(f"a cast to {to.name}")
    value = node.inputs[0]
    if value is not None and evaluation.view.dtype(value) == ir.DataType.BOOL:
        return _number(evaluation, value, depth)
    _check_not_rounded(evaluation, value, to)
    count = None if value is None or value in evaluation.facts else evaluation.count(value)
    return operand(evaluation, node, 0, depth) if count is None else count


def _check_not_rounded(evaluation: Evaluation, value: ir.Value | None, to: ir.DataType) -> None:
    x_type = evaluation.view.dtype(evaluation.root)
    if value is not None and value in evaluation.facts and x_type is not None and to.itemsize < x_type.itemsize:
        raise NotExpressible(f"x is rounded to {to.name} on the way")


def _cast_like(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    like = node.inputs[1]
    dtype = None if like is None else evaluation.view.dtype(like)
    if dtype not in FLOATS:
        raise NotExpressible("a cast to a type that is not a float, or not known")
    _check_not_rounded(evaluation, node.inputs[0], dtype)
    return operand(evaluation, node, 0, depth)


def _number(evaluation: Evaluation, condition: ir.Value, depth: int) -> Fact:
    """1 or 0 where a comparison comes out the same for every x: tf2onnx writes Select as a sum of products with these."""
    holds = truth(evaluation, condition, depth)
    if holds is None:
        raise NotExpressible("a comparison as a number, which depends on the data")
    return Fact(constant(float(holds)), shape_of(evaluation, condition, depth).dims)


TABLE: dict[str, TransferFunction] = {"Cast": _cast, "CastLike": _cast_like}
