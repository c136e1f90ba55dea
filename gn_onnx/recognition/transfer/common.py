"""What transfer functions of every kind share: reading attributes and operands."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.integers import axes_of
from gn_onnx.recognition.polynomials import NotExpressible
from gn_onnx.recognition.sizes import Size

TransferFunction = Callable[[Evaluation, ir.Node, int], Fact | dict[ir.Value, Fact]]


def int_attribute(evaluation: Evaluation, node: ir.Node, name: str, default: int) -> int:
    attribute = evaluation.attribute(node, name)
    return default if attribute is None else attribute.as_int()


def float_attribute(evaluation: Evaluation, node: ir.Node, name: str, default: float) -> float:
    attribute = evaluation.attribute(node, name)
    return default if attribute is None else attribute.as_float()


def ints_attribute(evaluation: Evaluation, node: ir.Node, name: str) -> list[int] | None:
    attribute = evaluation.attribute(node, name)
    return None if attribute is None else list(attribute.as_ints())


def operand(evaluation: Evaluation, node: ir.Node, index: int, depth: int) -> Fact:
    return evaluation.fact(node.inputs[index] if index < len(node.inputs) else None, depth)


def has_input(node: ir.Node, index: int) -> bool:
    return index < len(node.inputs) and node.inputs[index] is not None


def axes(evaluation: Evaluation, node: ir.Node, rank: int) -> list[int] | None:
    """The node's `axes`, counted from 0; None when absent."""
    try:
        found = axes_of(evaluation, node)
    except ValueError as e:
        raise NotExpressible(str(e)) from None
    if found is None:
        return None
    if any(not -rank <= axis < rank for axis in found):
        raise NotExpressible("axes out of range")
    return [axis % rank for axis in found]


def target_shape(evaluation: Evaluation, node: ir.Node) -> list[Size]:
    """The second input of Reshape, Expand or Tile (an attribute in the oldest opset)."""
    array = evaluation.integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if array is None:
        raise NotExpressible(f"the shape given to {node.op_type} is only known at run time")
    return list(array.ravel())


def broadcast(evaluation: Evaluation, fact: Fact, other: Fact) -> Fact:
    """The value in the shape that it has beside an operand which does nothing else to it."""
    poly, _, dims = evaluation.combine(fact, Fact({}, other.dims))
    return Fact(poly, dims)


def scalar_constant(evaluation: Evaluation, node: ir.Node, index: int, depth: int) -> float | None:
    """The value of an operand all of whose elements are one constant number, else None; its shape may be any."""
    fact = operand(evaluation, node, index, depth)
    if not fact.poly:
        return 0.0
    if len(fact.poly) == 1 and frozenset() in fact.poly:
        return fact.poly[frozenset()].scalar()
    return None
