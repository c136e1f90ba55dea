"""What a polynomial is called in a reason that a model's author reads: "the variance", "the standard deviation"."""

from __future__ import annotations

from collections.abc import Sequence

from gn_onnx.recognition.polynomials import UNIT, Moment, Monomial, Poly, Root, Symbol, Tensor

_MAX_LESS = 4


def name_of(poly: Poly, roots: Sequence[Poly]) -> str:
    """The statistic that a value is, or "a value"."""
    if len(poly) == 1:
        ((monomial, _),) = poly.items()
        factors = [(f, e) for f, e in monomial if not isinstance(f, Symbol)]
        if len(factors) == 1 and isinstance(factors[0][0], Root) and factors[0][1] in (1, -1):
            inside = roots[factors[0][0].index]
            centred = any(_is_square_of_mean(monomial) for monomial in inside)
            name = "the standard deviation" if centred else "the root mean square"
            if not any(_power_of(monomial) == 2 for monomial in inside):
                return "a root"
            return name if factors[0][1] == 1 else f"one over {name}"
    if any(_power_of(monomial) == 2 for monomial in poly):
        return "the variance" if any(_is_square_of_mean(monomial) for monomial in poly) else "the mean of squares"
    return "a value"


def _power_of(monomial: Monomial) -> int:
    """p, where E[x^p] is a factor and x's only one."""
    return next((f.power for f, e in monomial if isinstance(f, Moment) and e == 1), 0)


def _is_square_of_mean(monomial: Monomial) -> bool:
    return any(isinstance(f, Moment) and f.power == 1 and e == 2 for f, e in monomial)


def epsilon_outside(poly: Poly, roots: Sequence[Poly]) -> float | None:
    """c, where the value is a standard deviation (or norm) plus a constant c."""
    if len(poly) != 2 or UNIT not in poly:
        return None
    rest = {monomial: c for monomial, c in poly.items() if monomial != UNIT}
    return poly[UNIT].scalar() if name_of(rest, roots).startswith("the ") else None


def why_not_a_variance(poly: Poly, roots: Sequence[Poly]) -> str | None:
    """What the terms under a root have that a variance has not; None when there is no word for it."""
    less = {n for monomial in poly if _power_of(monomial) == 2 if (n := _divisor_less(monomial, roots)) is not None}
    if len(less) == 1:
        return divided_by_less(*less)
    below = poly[UNIT].scalar() if UNIT in poly else None
    if below is not None and below < 0 and name_of(poly, roots) == "the variance" and len(poly) == 3:
        return f"epsilon is negative ({below:g})"
    squares = {f.atoms for monomial in poly for f, _ in monomial if isinstance(f, Moment) and f.power == 2}
    tensors = {f.name for monomial in poly for f, _ in monomial if isinstance(f, Tensor)}
    if squares and (len(squares) > 1 or tensors):
        return "several statistics are mixed under the root, as in switchable or masked normalisation, not one variance"
    return None


def divided_by_less(less: int) -> str:
    return f"the variance is divided by n-{less}: export with unbiased=False (correction=0)"


def _divisor_less(monomial: Monomial, roots: Sequence[Poly]) -> int | None:
    """k, where a term is divided by n - k and n is a size that is known at run time only."""
    for factor, exponent in monomial:
        if not isinstance(factor, Root) or exponent != -2:
            continue
        inside = roots[factor.index]
        sizes = [m for m in inside if m != UNIT and all(isinstance(f, Symbol) for f, _ in m)]
        constant = inside[UNIT].scalar() if UNIT in inside else None
        if len(inside) == 2 and len(sizes) == 1 and constant is not None and -_MAX_LESS <= constant <= -1:
            return round(-constant)
    return None
