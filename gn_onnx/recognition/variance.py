"""Which variance a root is of: that of a group's elements, divided by their number, plus one epsilon; or why of none."""

from __future__ import annotations

import dataclasses

import numpy as np

from gn_onnx.recognition.algebra import Algebra
from gn_onnx.recognition.evaluation import Evaluation
from gn_onnx.recognition.layout import Atom
from gn_onnx.recognition.polynomials import (
    THE_X,
    UNIT,
    Coefficient,
    Moment,
    Monomial,
    Poly,
    Symbol,
    Tensor,
    of_factor,
    of_size,
)
from gn_onnx.recognition.sizes import Size, product
from gn_onnx.recognition.wording import divided_by_less, why_not_a_variance

_MOST_LESS = 4
_FLOAT32 = np.finfo(np.float32)


class Mismatch(Exception):  # noqa: N818 - an answer, not an error
    """The value is not a GroupNorm of x; the message says why.

    Attributes:
        elsewhere: The scale lies along axes that are not x's channels: what looks like the core is another
            normalisation (LayerNorm, or groups of rows), not a GroupNorm with something behind it.
        uncentred: The mean is not subtracted, as far as the expression in x tells.
        at: The first expression that is not as it should be; None where that is the value's own.
    """

    def __init__(self, reason: str, *, elsewhere: bool = False, uncentred: bool = False, at: Poly | None = None) -> None:
        super().__init__(reason)
        self.elsewhere = elsewhere
        self.uncentred = uncentred
        self.at = at


@dataclasses.dataclass(frozen=True)
class Variance:
    """`root^2 = factor^2 * (E[x^2] - E[x]^2 + epsilon)` over `atoms`; factor > 0 is what x was multiplied with before."""

    atoms: frozenset[Atom]
    epsilon: float
    factor: float


def variance_of(evaluation: Evaluation, index: int) -> Variance:
    """What `roots[index]` is. Raises Mismatch where it is not the biased variance of x or of a multiple of x."""
    algebra = evaluation.algebra
    poly = dict(algebra.roots[index])
    epsilon = poly.pop(UNIT, Coefficient(np.zeros(())))
    atoms = _atoms(algebra, poly, index)
    square: Monomial = frozenset({(Moment(2, atoms), 1)})
    second, first = poly[square], poly[frozenset({(Moment(1, atoms), 2)})]
    if (second + first).magnitude() > algebra.tolerance * second.magnitude():
        raise Mismatch(_unequal(second, first) or _not_of_a_variance(algebra, index), at=poly)
    weight = second.scalar()
    if weight is None:
        raise Mismatch("the variance is weighted differently per channel or group", at=poly)
    factor = 1.0
    if abs(weight - 1.0) > algebra.tolerance:
        if not _was_multiplied(evaluation, weight):
            raise Mismatch(_other_divisor(weight, product(atom.size for atom in atoms)), at=poly)
        factor = float(np.sqrt(weight))
    value = epsilon.scalar()
    if value is None:
        raise Mismatch("epsilon differs from channel to channel or group to group", at=algebra.roots[index])
    if value < 0:
        raise Mismatch(f"epsilon is negative ({value:g})", at=algebra.roots[index])
    if not np.isfinite(value):
        raise Mismatch(f"epsilon is {value:g}", at=algebra.roots[index])
    value /= factor**2
    if value and not float(_FLOAT32.tiny) <= value <= float(_FLOAT32.max):
        raise Mismatch(f"epsilon is {value:g}, which an attribute of a node (float32) cannot say", at=algebra.roots[index])
    return Variance(atoms, value, factor)


def _atoms(algebra: Algebra, poly: Poly, index: int) -> frozenset[Atom]:
    """Of the one E[x^2] and the one E[x]^2 in the terms under the root."""
    squares = {m: moment for m in poly if (moment := _mean_of_squares(m)) is not None}
    if len(squares) != 1:
        raise Mismatch(_summed_squares(algebra, poly) or _not_of_a_variance(algebra, index), at=poly)
    ((square, moment),) = squares.items()
    mean_square: Monomial = frozenset({(Moment(1, moment.atoms), 2)})
    if set(poly) == {square}:
        reason = "the mean is not subtracted in the variance: an RMS or filter response normalisation"
        raise Mismatch(reason, uncentred=True, at=poly)
    if set(poly) != {square, mean_square}:
        if any(isinstance(f, Tensor) for m in poly for f, _ in m):
            raise Mismatch("the variance involves another tensor")
        raise Mismatch("mean and variance are taken over different axes", at=poly)
    return moment.atoms


def _was_multiplied(evaluation: Evaluation, weight: float) -> bool:
    """Whether the graph has sqrt(weight) times x, plus a constant at most: the variance is that value's."""
    x = next(iter(of_factor(THE_X)))
    for fact in evaluation.facts.values():
        scale = fact.poly[x].scalar() if x in fact.poly and set(fact.poly) <= {x, UNIT} else None
        if scale is not None and abs(scale * scale - weight) <= evaluation.algebra.tolerance * weight:
            return True
    return False


def _mean_of_squares(monomial: Monomial) -> Moment | None:
    """The moment, where the monomial is E[x^2] and nothing else."""
    if len(monomial) != 1:
        return None
    ((factor, exponent),) = monomial
    return factor if isinstance(factor, Moment) and factor.power == 2 and exponent == 1 else None


def _summed_squares(algebra: Algebra, poly: Poly) -> str | None:
    """The reason where E[x^2] is multiplied with the number of elements, which is known at run time only."""
    for monomial, coefficient in poly.items():
        moment = next((f for f, e in monomial if isinstance(f, Moment) and f.power == 2 and e == 1), None)
        sizes = {m: c for m, c in ((monomial - {(moment, 1)}, coefficient),) if all(isinstance(f, Symbol) for f, _ in m)}
        if moment is not None and sizes and not algebra.add(sizes, of_size(product(a.size for a in moment.atoms)), -1.0):
            return _SUMMED
    return None


def _unequal(second: Coefficient, first: Coefficient) -> str | None:
    a, b = second.scalar(), first.scalar()
    return None if a is None or b is None else f"E[x^2] is weighted with {a:.12g} and E[x]^2 with {b:.12g}: not a variance"


_SUMMED = "the squares are summed, not averaged, as in an L2 norm: divide the sum by the number of elements"


def _not_of_a_variance(algebra: Algebra, index: int) -> str:
    root = algebra.roots[index]
    return why_not_a_variance(root, algebra.roots) or f"the root is of {algebra.show(root)}, not of a variance"


def _other_divisor(weight: float, count: Size) -> str:
    n = count.static
    if n is not None and abs(weight - n) < 1e-6 * n:
        return _SUMMED
    for less in range(1, min(_MOST_LESS, (n or 1) - 1) + 1):
        right = (n or 1) / ((n or 1) - less)
        if abs(weight - right) < 1e-3 * (right - 1) + 1e-7:
            return divided_by_less(less)
    return f"the variance is weighted with {weight:.6g} before epsilon is added"
