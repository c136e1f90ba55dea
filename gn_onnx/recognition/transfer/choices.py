"""Where: which of its two operands it takes, as far as that can be told for every x."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.layout import LayoutError, free_dim
from gn_onnx.recognition.model_view import STANDARD_DOMAINS
from gn_onnx.recognition.polynomials import THE_X, Moment, NotExpressible, Poly, Symbol, constant, of_factor
from gn_onnx.recognition.sizes import Size
from gn_onnx.recognition.transfer.common import TransferFunction, axes, broadcast, int_attribute, operand, scalar_constant
from gn_onnx.recognition.transfer.elementwise import binary


def _where(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    condition = None if node.inputs[0] is None else evaluation.view.folded(node.inputs[0])
    if condition is not None and condition.size and np.all(condition == condition.ravel()[0]):
        holds: bool | None = bool(condition.ravel()[0])
    else:
        holds = truth(evaluation, node.inputs[0], depth, node)
    if holds is None and (_is_zero_of_constant_group(evaluation, node, depth) or _is_the_same(evaluation, node, depth)):
        holds = False
    if holds is None:
        raise NotExpressible("a choice that depends on the data: epsilon under the root needs none")
    chosen, other = (1, 2) if holds else (2, 1)
    fact = operand(evaluation, node, chosen, depth)
    # The condition and the operand that is never taken still broadcast.
    for unused in (node.inputs[0], node.inputs[other]):
        fact = broadcast(evaluation, fact, shape_of(evaluation, unused, depth))
    return fact


def shape_of(evaluation: Evaluation, value: ir.Value | None, depth: int) -> Fact:
    """A fact that says nothing but the shape.

    From what is known of the data before what inference knows: an inferred batch may have another name than x's.
    """
    if value is None:
        raise NotExpressible("a required input is missing")
    known = evaluation.facts.get(value)
    if known is not None:
        return Fact({}, known.dims)
    node = value.producer()
    follow = _SHAPES.get(node.op_type) if node is not None and node.domain in STANDARD_DOMAINS else None
    if node is not None and follow is not None and depth < _MAX_DEPTH:
        fact = follow(evaluation, node, depth + 1)
        if fact is not None:
            return fact
    shape = evaluation.shape(value)
    if shape is None:
        raise NotExpressible("a choice between values of unknown shape")
    return Fact({}, tuple(free_dim(size) for size in shape))


_MAX_DEPTH = 16


def _shape_of_all(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    return functools.reduce(functools.partial(broadcast, evaluation), (shape_of(evaluation, v, depth) for v in node.inputs))


def _shape_of_first(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    return shape_of(evaluation, node.inputs[0], depth)


def _shape_of_expanded(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact | None:
    target = evaluation.integers(node.inputs[1])
    if target is None or not all(isinstance(size, Size) for size in target.ravel()):
        return None
    expanded = Fact({}, tuple(free_dim(size) for size in target.ravel()))
    return broadcast(evaluation, shape_of(evaluation, node.inputs[0], depth), expanded)


def _shape_of_extremes(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact | None:
    if not int_attribute(evaluation, node, "keepdims", 1) or int_attribute(evaluation, node, "noop_with_empty_axes", 0):
        return None
    dims = shape_of(evaluation, node.inputs[0], depth).dims
    over = axes(evaluation, node, len(dims)) or range(len(dims))
    return Fact({}, tuple(() if i in over else dim for i, dim in enumerate(dims)))


_COMPARES = ("And", "Or", "Not", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
_SHAPES: dict[str, Callable[[Evaluation, ir.Node, int], Fact | None]] = {
    **dict.fromkeys(_COMPARES, _shape_of_all),
    **dict.fromkeys(("Cast", "CastLike", "Identity", "IsNaN", "IsInf", "Sign"), _shape_of_first),
    **dict.fromkeys(("ReduceMin", "ReduceMax"), _shape_of_extremes),
    "Expand": _shape_of_expanded,
}
"""Shapes of what has no fact: conditions, and values that are never taken."""


def _is_the_same(evaluation: Evaluation, node: ir.Node, depth: int) -> bool:
    """Where(..., a + w * (b - a), b - (b - a) * (1 - w)), as torch.lerp is exported: both are equal over the reals."""
    chosen, other = (operand(evaluation, node, i, depth) for i in (1, 2))
    return chosen.dims == other.dims and not evaluation.algebra.add(chosen.poly, other.poly, -1.0)


def _is_zero_of_constant_group(evaluation: Evaluation, node: ir.Node, depth: int) -> bool:
    """Where(min(x) == max(x) and ..., 0, x - E[x]): in a constant group the deviation is 0 anyway."""
    if scalar_constant(evaluation, node, 1, depth) != 0.0:
        return False
    moments = [f for m in operand(evaluation, node, 2, depth).poly for f, e in m if isinstance(f, Moment) and e == 1]
    deviation = evaluation.algebra.add(of_factor(THE_X), of_factor(moments[0]), -1.0) if len(moments) == 1 else {}
    if not deviation or evaluation.algebra.add(operand(evaluation, node, 2, depth).poly, deviation, -1.0):
        return False
    return any(_compares_extremes(evaluation, test, moments[0], depth) for test in _conjuncts(node.inputs[0]))


def _conjuncts(value: ir.Value | None) -> list[ir.Node]:
    node = None if value is None else value.producer()
    if node is None:
        return []
    return [n for v in node.inputs for n in _conjuncts(v)] if node.op_type == "And" else [node]


def _compares_extremes(evaluation: Evaluation, test: ir.Node, moment: Moment, depth: int) -> bool:
    producers = [v.producer() if v is not None else None for v in test.inputs]
    if test.op_type != "Equal" or {p.op_type if p is not None else "" for p in producers} != {"ReduceMin", "ReduceMax"}:
        return False
    for extreme in producers:
        assert extreme is not None
        fact = operand(evaluation, extreme, 0, depth)
        over = axes(evaluation, extreme, len(fact.dims)) or range(len(fact.dims))
        atoms = frozenset(atom for axis in over for atom in fact.dims[axis])
        if evaluation.algebra.add(fact.poly, of_factor(THE_X), -1.0) or atoms != moment.atoms:
            return False
    return True


def truth(evaluation: Evaluation, condition: ir.Value | None, depth: int, choice: ir.Node | None = None) -> bool | None:
    """What a comparison gives for every x, as far as bounds of the values tell.

    Where it decides a `choice` between its own operands, either will do for it where they are equal.
    """
    test, answer = _test(condition)
    if test is None or test.op_type not in _COMPARISONS:
        return None
    algebra = evaluation.algebra
    sign, strict = _COMPARISONS[test.op_type]
    try:
        left, right = operand(evaluation, test, 0, depth), operand(evaluation, test, 1, depth)
        gap = binary(evaluation, left, right, lambda p, q: algebra.add(p, q, -1.0)).poly
    except (NotExpressible, LayoutError):
        return None  # nothing is known of what is compared
    if not gap:
        return answer if test.op_type == "Equal" or not strict else not answer
    above, below = _least(evaluation, gap), _least(evaluation, algebra.multiply(gap, constant(-1.0)))
    if test.op_type == "Equal":
        return not answer if above > 0 or below > 0 or _are_the_branches(evaluation, choice, gap, depth) else None
    holds, fails = (above, below) if sign > 0 else (below, above)
    for bound, outcome, decided in ((holds, answer, not strict), (fails, not answer, strict)):
        if bound > 0 or (bound == 0 and (decided or _are_the_branches(evaluation, choice, gap, depth))):
            return outcome
    return None


def _least(evaluation: Evaluation, poly: Poly) -> float:
    """A bound from below, for an x that has elements: of one that has none, no value matters."""
    if len(poly) == 1:
        ((monomial, coefficient),) = poly.items()
        own = {name for atom in evaluation.algebra.x_atoms for name, _ in atom.size.symbols}
        if monomial and all(isinstance(f, Symbol) and f.name in own and e > 0 for f, e in monomial):
            return float(np.min(coefficient.array)) if np.all(coefficient.array > 0) else -np.inf
    return evaluation.algebra.lower_bound(poly)


def _are_the_branches(evaluation: Evaluation, node: ir.Node | None, gap: Poly, depth: int) -> bool:
    """Whether a Where chooses between the operands of its comparison: where these are equal, either will do."""
    if node is None:
        return False
    algebra = evaluation.algebra
    try:
        yes, no = operand(evaluation, node, 1, depth), operand(evaluation, node, 2, depth)
    except NotExpressible:
        return False
    difference = binary(evaluation, yes, no, lambda p, q: algebra.add(p, q, -1.0)).poly
    return any(not algebra.add(difference, gap, sign) for sign in (1.0, -1.0))


def _test(condition: ir.Value | None) -> tuple[ir.Node | None, bool]:
    """The comparison that a condition is, and what the condition is when it holds."""
    node, answer = None if condition is None else condition.producer(), True
    while node is not None and node.op_type == "Not":
        node, answer = None if node.inputs[0] is None else node.inputs[0].producer(), not answer
    return node, answer


_COMPARISONS = {
    "Equal": (0, True),
    "Less": (-1, True),
    "LessOrEqual": (-1, False),
    "Greater": (1, True),
    "GreaterOrEqual": (1, False),
}
"""Operator -> (the sign of the difference of its operands for which it holds, whether it fails where they are equal)."""

TABLE: dict[str, TransferFunction] = {"Where": _where}
