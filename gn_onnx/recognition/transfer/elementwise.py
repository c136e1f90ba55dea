"""Arithmetic operators, element by element."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.polynomials import NotExpressible, Poly, constant
from gn_onnx.recognition.transfer.common import (
    TransferFunction,
    broadcast,
    float_attribute,
    has_input,
    int_attribute,
    operand,
    scalar_constant,
)
from gn_onnx.recognition.wording import name_of

_LARGE = 1e30
"""A bound beyond this never clamps: exporters write the type's largest value where they mean infinity."""


def binary(evaluation: Evaluation, a: Fact, b: Fact, function: Callable[[Poly, Poly], Poly]) -> Fact:
    p, q, dims = evaluation.combine(a, b)
    return Fact(function(p, q), dims)


def _binary(combine: Callable[[Evaluation], Callable[[Poly, Poly], Poly]]) -> TransferFunction:
    def apply(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
        if "broadcast" in node.attributes or "axis" in node.attributes:
            raise NotExpressible("broadcasting as before opset 7")
        a, b = operand(evaluation, node, 0, depth), operand(evaluation, node, 1, depth)
        return binary(evaluation, a, b, combine(evaluation))

    return apply


def _divide(evaluation: Evaluation) -> Callable[[Poly, Poly], Poly]:
    return lambda p, q: evaluation.algebra.multiply(p, evaluation.algebra.inverse(q))


def _sum(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    facts = [operand(evaluation, node, i, depth) for i in range(len(node.inputs))]
    return functools.reduce(lambda a, b: binary(evaluation, a, b, evaluation.algebra.add), facts)


def _unary(function: Callable[[Evaluation, Poly], Poly]) -> TransferFunction:
    def apply(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
        fact = operand(evaluation, node, 0, depth)
        return Fact(function(evaluation, fact.poly), fact.dims)

    return apply


def _power(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    exponent = scalar_constant(evaluation, node, 1, depth)
    if exponent is None:
        raise NotExpressible("a power that is not one constant")
    fact = operand(evaluation, node, 0, depth)
    power = Fact(evaluation.algebra.power(fact.poly, exponent), fact.dims)
    return broadcast(evaluation, power, operand(evaluation, node, 1, depth))


def _identity(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    return operand(evaluation, node, 0, depth)


def _dropout(evaluation: Evaluation, node: ir.Node, depth: int) -> dict[ir.Value, Fact]:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if evaluation.view.opset_version(node) < 7 and not int_attribute(evaluation, node, "is_test", 0):
        raise NotExpressible("Dropout in training mode")
    if training is not None:
        flag = evaluation.view.constant(training)
        if flag is None or bool(flag.ravel()[0]):
            raise NotExpressible("Dropout in training mode")
    return {node.outputs[0]: operand(evaluation, node, 0, depth)}


def _at_least(evaluation: Evaluation, fact: Fact, bound: float, what: str) -> Fact:
    """The value, where a lower bound never takes effect over the reals."""
    if fact.poly and bound <= evaluation.algebra.lower_bound(fact.poly) * (1 + 1e-6):
        return fact
    name = name_of(fact.poly, evaluation.algebra.roots)
    instead = ": GroupNorm adds epsilon to the variance instead, sqrt(var + epsilon)" if name != "a value" else ""
    raise NotExpressible(f"{what} clamps {name} at {bound:g} from below{instead}")


def _relu(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    return _at_least(evaluation, operand(evaluation, node, 0, depth), 0.0, "Relu")


def _max(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    values: list[Fact] = []
    bounds: list[Fact] = []
    bound = -np.inf
    for i in range(len(node.inputs)):
        number = scalar_constant(evaluation, node, i, depth)
        (values if number is None else bounds).append(operand(evaluation, node, i, depth))
        bound = bound if number is None else max(bound, number)
    if len(values) != 1:
        raise NotExpressible("the maximum of several values")
    kept = _at_least(evaluation, values[0], bound, "Max")
    return functools.reduce(functools.partial(broadcast, evaluation), bounds, kept)


def _clip(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    low, high = -np.inf, np.inf
    if "min" in node.attributes:
        low = float_attribute(evaluation, node, "min", low)
    elif has_input(node, 1):
        low = _bound(evaluation, node, 1, depth)
    if "max" in node.attributes:
        high = float_attribute(evaluation, node, "max", high)
    elif has_input(node, 2):
        high = _bound(evaluation, node, 2, depth)
    fact = operand(evaluation, node, 0, depth)
    if high < _LARGE and not (high >= 65504 and evaluation.root.dtype == ir.DataType.FLOAT16):
        raise NotExpressible(f"Clip clamps {name_of(fact.poly, evaluation.algebra.roots)} at {high:g} from above")
    return fact if low < -_LARGE else _at_least(evaluation, fact, low, "Clip")


def _bound(evaluation: Evaluation, node: ir.Node, index: int, depth: int) -> float:
    value = node.inputs[index]
    array = None if value is None else evaluation.view.folded(value)  # may be infinite
    if array is not None and array.size == 1:
        return float(array.ravel()[0])
    number = scalar_constant(evaluation, node, index, depth)
    if number is None:
        raise NotExpressible("a clamp at a bound that is not constant")
    return number


def _abs(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    fact = operand(evaluation, node, 0, depth)
    if fact.poly and evaluation.algebra.lower_bound(fact.poly) >= 0:
        return fact
    raise NotExpressible("an absolute value is taken: GroupNorm squares the deviations from the mean")


CALCULATES = {"Add", "Sub", "Mul", "Div", "Sum", "Neg", "Pow", "Abs"}
"""What there is of integers too."""

TABLE: dict[str, TransferFunction] = {
    "Add": _binary(lambda e: e.algebra.add),
    "Sub": _binary(lambda e: lambda p, q: e.algebra.add(p, q, -1.0)),
    "Mul": _binary(lambda e: e.algebra.multiply),
    "Div": _binary(_divide),
    "Sum": _sum,
    "Neg": _unary(lambda e, p: e.algebra.multiply(p, constant(-1.0))),
    "Sqrt": _unary(lambda e, p: e.algebra.sqrt(p)),
    "Exp": _unary(lambda e, p: e.algebra.exp(p)),
    "Log": _unary(lambda e, p: e.algebra.log(p)),
    "Reciprocal": _unary(lambda e, p: e.algebra.inverse(p)),
    "Pow": _power,
    "Abs": _abs,
    "Relu": _relu,
    "Max": _max,
    "Clip": _clip,
    "Identity": _identity,
    "Dropout": _dropout,
}
