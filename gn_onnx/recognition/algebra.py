"""The page of maths: Laurent polynomials in x and its moments.

Every value that a graph computes from x is written as a sum of terms `coefficient * product(factor ** exponent)`:

    x         x itself
    E(p, A)   the mean of x^p over the atoms A of its axes (p = 1, 2)
    root(i)   the positive square root of a polynomial that has more than one term, `roots[i]`
    log(i)    its logarithm, until an exponential makes a power of it
    t         a tensor of the graph that was not derived from x, taken as it is
    s         a symbolic size (the number of elements of a group may be known at run time only)

Coefficients are float64 arrays indexed by atoms. Two rules do all the work: E is linear, and leaves alone what does
not vary along A; `root(i)^2 = roots[i]`. GroupNorm over the atoms A of a group is then, with
`roots[i] = E(2, A) - E(1, A)^2 + epsilon`,

    y = scale * x * root(i)^-1 - scale * E(1, A) * root(i)^-1 + bias

whatever the order, the spelling and the number of operators that computed it. The statements are exact over the reals.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from gn_onnx.recognition.layout import Atom
from gn_onnx.recognition.polynomials import (
    THE_X,
    UNIT,
    Coefficient,
    Exponent,
    Factor,
    Log,
    Moment,
    Monomial,
    NotExpressible,
    Poly,
    Root,
    Symbol,
    Tensor,
    X,
    constant,
    monomial_product,
    of_factor,
)
from gn_onnx.recognition.wording import name_of, why_not_a_variance

MAX_TERMS = 64
"""No spelling of GroupNorm comes near; a longer sum is some other computation, not worth following."""


def _is_positive_count(p: Poly) -> bool:
    """Whether a sum of sizes and numbers is above 0 whatever the sizes are; of an x without elements no value matters."""
    least = 0.0
    for monomial, coefficient in p.items():
        number = coefficient.scalar()
        counts = all(isinstance(f, Symbol) and e > 0 for f, e in monomial)
        if number is None or not counts or (monomial and number < 0):
            return False
        least += number
    return least > 0


class Algebra:
    """Polynomials over one x; holds the table of roots.

    Args:
        x_atoms: All atoms of x.
        tolerance: Relative difference below which two coefficients are one. Coefficients are exact but for the rounding
            of float64: constants that were rounded (1/n in float32) are read as what was meant. Nothing larger will do:
            an error of 2e-5 in a mean is one of 6e-10 in a variance's E[x]^2, and that may be 1e8 times the variance.
    """

    def __init__(self, x_atoms: frozenset[Atom], tolerance: float = 1e-12) -> None:
        self.x_atoms = x_atoms
        self.tolerance = tolerance
        self.roots: list[Poly] = []

    def add(self, p: Poly, q: Poly, sign: float = 1.0) -> Poly:
        out = dict(p)
        for monomial, coefficient in q.items():
            scaled = coefficient if sign == 1.0 else Coefficient(coefficient.array * sign, coefficient.atoms)
            old = out.get(monomial)
            if old is None:
                out[monomial] = scaled
                continue
            total = old + scaled
            if total.magnitude() <= self.tolerance * max(old.magnitude(), scaled.magnitude()):
                del out[monomial]
            else:
                out[monomial] = total
        if len(out) > MAX_TERMS:
            raise NotExpressible("the expression grows beyond what a normalisation needs")
        return out

    def multiply(self, p: Poly, q: Poly) -> Poly:
        if len(p) * len(q) > MAX_TERMS * 4:
            raise NotExpressible("the expression grows beyond what a normalisation needs")
        for one, other in ((p, q), (q, p)):
            cancelled = self._cancelled(one, other)
            if cancelled is not None:
                return cancelled
        out: Poly = {}
        for a, u in p.items():
            for b, v in q.items():
                out = self.add(out, self._reduced(monomial_product(a, b), u * v))
        return out

    def _cancelled(self, p: Poly, q: Poly) -> Poly | None:
        """`p * q` where q is a multiple of what every term of p is divided by: n - 1, for a correction by (n - 1) / n."""
        if len(q) < 2 or not p:
            return None
        divisors = [{f.index for f, e in monomial if isinstance(f, Root) and e <= -2} for monomial in p]
        for index in set.intersection(*divisors):
            divisor = self.roots[index]
            if len(divisor) != len(q) or not _is_positive_count(divisor):
                continue
            first, one = next(iter(divisor.items()))
            for monomial, coefficient in q.items():
                over = frozenset((f, -e) for f, e in first)
                multiple = {monomial_product(monomial, over): Coefficient(coefficient.array / one.array, coefficient.atoms)}
                if not self.add(self.multiply(divisor, multiple), q, -1.0):
                    return self.multiply(self.multiply(p, of_factor(Root(index), 2)), multiple)
        return None

    def _reduced(self, monomial: Monomial, coefficient: Coefficient) -> Poly:
        """One term with `root^2 -> its polynomial` applied, where that is not negative (else the root is NaN)."""
        for factor, exponent in monomial:
            if isinstance(factor, Root) and exponent >= 2 and self._is_never_negative(factor):
                rest = monomial_product(monomial, frozenset({(factor, -2)}))
                return self.multiply({rest: coefficient}, self.roots[factor.index])
        return {monomial: coefficient}

    def _is_never_negative(self, root: Root) -> bool:
        return self.lower_bound(self.roots[root.index]) >= 0

    def inverse(self, p: Poly) -> Poly:
        if len(p) == 1:
            ((monomial, coefficient),) = p.items()
            if np.any(coefficient.array == 0):
                raise NotExpressible("division by zero")
            inverted = frozenset((f, -e) for f, e in monomial)
            return self._reduced(inverted, Coefficient(1.0 / coefficient.array, coefficient.atoms))
        if not p:
            raise NotExpressible("division by zero")
        return of_factor(self._root(p), -2)

    def sqrt(self, p: Poly) -> Poly:
        if len(p) == 1:
            ((monomial, coefficient),) = p.items()
            if np.any(coefficient.array < 0):
                raise NotExpressible("square root of a negative value")
            factors: list[tuple[Factor, Exponent]] = []
            for factor, exponent in monomial:
                # 1/p is root(p)^-2 whatever the sign of p: its root is 1/root(p), but that of 1/p^2 is 1/|p|.
                alone = len(monomial) == 1 and exponent == -2
                if isinstance(factor, Root) and exponent % 2 == 0 and (alone or self._is_never_negative(factor)):
                    factors.append((factor, exponent // 2))
                elif isinstance(factor, Symbol):
                    factors.append((factor, Fraction(exponent) / 2))
                else:
                    return self._sqrt_of_any(p)
            return {frozenset(factors): Coefficient(np.sqrt(coefficient.array), coefficient.atoms)}
        return self._sqrt_of_any(p) if p else {}

    def _sqrt_of_any(self, p: Poly) -> Poly:
        holds_x = any(isinstance(factor, X | Moment) for monomial in p for factor, _ in monomial)
        if holds_x and self.lower_bound(p) < 0:
            known = why_not_a_variance(p, self.roots)
            raise NotExpressible(known or f"the square root of {self.show(p)}, which may be negative")
        return of_factor(self._root(p))

    def power(self, p: Poly, exponent: float) -> Poly:
        """`p ** exponent` for exponents that are multiples of 1/2."""
        halves = round(exponent * 2)
        if abs(halves - exponent * 2) > 1e-6 or abs(halves) > 8:
            raise NotExpressible(f"{name_of(p, self.roots)} is raised to the power {exponent:g}: a root is 0.5 or -0.5")
        base = self.sqrt(p) if halves % 2 else p
        count = abs(halves) if halves % 2 else abs(halves) // 2
        result = constant(1.0)
        for _ in range(count):
            result = self.multiply(result, base)
        return self.inverse(result) if halves < 0 else result

    def log(self, p: Poly) -> Poly:
        """The natural logarithm of something that is never negative: a sum of powers' exponents times `log(i)`."""
        if not p or self.lower_bound(p) < 0:
            raise NotExpressible(f"the logarithm of {self.show(p)}, which may be negative")
        if len(p) > 1:
            return of_factor(Log(self._root(p).index))
        ((monomial, coefficient),) = p.items()
        if np.any(coefficient.array <= 0) or any(not isinstance(f, Root) for f, _ in monomial):
            raise NotExpressible(f"the logarithm of {self.show(p)}")
        out: Poly = {UNIT: Coefficient(np.log(coefficient.array), coefficient.atoms)}
        for factor, exponent in monomial:
            assert isinstance(factor, Root)
            out[frozenset({(Log(factor.index), 1)})] = Coefficient(np.asarray(float(exponent) / 2))
        return self.add({}, out) if np.any(coefficient.array != 1) else {m: c for m, c in out.items() if m != UNIT}

    def exp(self, p: Poly) -> Poly:
        """The exponential of constants and multiples of `log(i)`."""
        result = constant(1.0)
        for monomial, coefficient in p.items():
            if monomial == UNIT:
                result = self.multiply(result, {UNIT: Coefficient(np.exp(coefficient.array), coefficient.atoms)})
                continue
            ((factor, exponent),) = monomial if len(monomial) == 1 else ((None, 0),)
            times = coefficient.scalar()
            if not isinstance(factor, Log) or exponent != 1 or times is None:
                raise NotExpressible("an exponential of something other than a logarithm")
            result = self.multiply(result, self.power(self.roots[factor.index], times))
        return result

    def _root(self, p: Poly) -> Root:
        for i, other in enumerate(self.roots):
            if p.keys() == other.keys() and not self.add(p, other, -1.0):
                return Root(i)
        self.roots.append(p)
        return Root(len(self.roots) - 1)

    def varies_along(self, factor: Factor) -> frozenset[Atom]:
        """The atoms along which a factor's value changes."""
        if isinstance(factor, X):
            return self.x_atoms
        if isinstance(factor, Moment):
            return self.x_atoms - factor.atoms
        if isinstance(factor, Tensor):
            return frozenset(factor.atoms)
        if isinstance(factor, Root | Log):
            return self.poly_varies_along(self.roots[factor.index])
        return frozenset()

    def poly_varies_along(self, p: Poly) -> frozenset[Atom]:
        out: set[Atom] = set()
        for monomial, coefficient in p.items():
            out.update(coefficient.atoms)
            for factor, _ in monomial:
                out |= self.varies_along(factor)
        return frozenset(out)

    def mean(self, p: Poly, over: frozenset[Atom], marks: frozenset[Atom] = frozenset()) -> Poly:
        """E over the atoms `over` (of x, or free ones).

        Args:
            p: The value.
            over: What is averaged over.
            marks: The slices that the value belongs to; its moments are theirs.

        Raises:
            NotExpressible: When the mean is not a polynomial in moments of x.
        """
        p = self.marked(p, marks)
        axes = frozenset(atom for atom in over if atom.axis is not None and atom.at is None)
        out: Poly = {}
        for monomial, coefficient in p.items():
            power = next((e for f, e in monomial if isinstance(f, X)), 0)
            coefficient = coefficient.varying(over)
            inside = [(f, e) for f, e in monomial if not isinstance(f, X) and self.varies_along(f) & over]
            weighted = bool(set(coefficient.atoms) & over)
            if not power and not inside:
                kept = tuple(i for i, atom in enumerate(coefficient.atoms) if atom in over)
                term = Coefficient(coefficient.array.mean(axis=kept), tuple(a for a in coefficient.atoms if a not in over))
                out = self.add(out, {monomial: term})
                continue
            if weighted or any(isinstance(f, Tensor) for f, _ in inside):
                raise NotExpressible("a mean is taken of x weighted by something that varies inside the group")
            if power and not inside and power in (1, 2):
                reduced = axes | marks if axes or marks & over else axes
                if not reduced:
                    out = self.add(out, {monomial: coefficient})
                    continue
                swapped = monomial_product(monomial, frozenset({(THE_X, -power), (Moment(int(power), reduced), 1)}))
            elif not power and len(inside) == 1 and isinstance(inside[0][0], Moment) and inside[0][1] == 1:
                moment = inside[0][0]
                wider = Moment(moment.power, moment.atoms | axes)
                swapped = monomial_product(monomial, frozenset({(moment, -1), (wider, 1)}))
            else:
                raise NotExpressible("a mean is taken of something other than x, x^2 or a deviation of x from its mean")
            out = self.add(out, {swapped: coefficient})
        return out

    def marked(self, p: Poly, marks: frozenset[Atom]) -> Poly:
        """The expression with its moments named as those of the slices `marks`, so that slices are never confused."""
        if not marks:
            return p
        out: Poly = {}
        for monomial, coefficient in p.items():
            factors: list[tuple[Factor, Exponent]] = []
            for factor, exponent in monomial:
                if isinstance(factor, Moment):
                    own = {
                        m for m in marks if any((a.axis, a.index) == (m.axis, m.index) for a in self.varies_along(factor))
                    }
                    factor = Moment(factor.power, factor.atoms | own)
                elif isinstance(factor, Root | Log):
                    factor = type(factor)(self._root(self.marked(self.roots[factor.index], marks)).index)
                factors.append((factor, exponent))
            out = self.add(out, {frozenset(factors): coefficient})
        return out

    def without_mark(self, p: Poly, mark: Atom) -> Poly:
        """The expression of one slice as that of all slices: its moments are the moments at every position."""
        out: Poly = {}
        for monomial, coefficient in p.items():
            factors: list[tuple[Factor, Exponent]] = []
            for factor, exponent in monomial:
                if isinstance(factor, Moment) and mark in factor.atoms:
                    factor = Moment(factor.power, factor.atoms - {mark})
                elif isinstance(factor, Root | Log):
                    factor = type(factor)(self._root(self.without_mark(self.roots[factor.index], mark)).index)
                elif isinstance(factor, Tensor) and mark in factor.atoms:
                    raise NotExpressible("a tensor that belongs to one slice")
                factors.append((factor, exponent))
            kept = tuple(atom for atom in coefficient.atoms if atom != mark)
            array = coefficient.array if kept == coefficient.atoms else coefficient.aligned(kept)
            out = self.add(out, {frozenset(factors): Coefficient(array, kept)})
        return out

    def lower_bound(self, p: Poly) -> float:
        """A constant that the value is never below, over the reals; -inf when none is known."""
        groups: dict[Monomial, Poly] = {}
        for monomial, coefficient in p.items():
            sizes: Monomial = frozenset((f, e) for f, e in monomial if isinstance(f, Symbol))
            groups.setdefault(sizes, {})[monomial - sizes] = coefficient
        bound = 0.0
        for sizes, poly in groups.items():
            low = self._lower_bound_without_sizes(poly)
            if sizes and low < 0:
                return -np.inf
            bound += 0.0 if sizes else low  # a size is at least 0
        return bound

    def _lower_bound_without_sizes(self, p: Poly) -> float:
        bound = 0.0
        for monomial, coefficient in p.items():
            low = float(np.min(coefficient.array, initial=np.inf))
            if monomial == UNIT:
                bound += low
                continue
            if len(monomial) != 1:
                return -np.inf
            ((factor, exponent),) = monomial
            if low < 0:
                if not (isinstance(factor, Moment) and factor.power == 1 and exponent == 2):
                    return -np.inf
                square = p.get(frozenset({(Moment(2, factor.atoms), 1)}))
                if square is None or np.any((square + coefficient).array < -self.tolerance * square.magnitude()):
                    return -np.inf  # E[x^2] >= E[x]^2 holds for equal weights only
            elif isinstance(factor, Root) and exponent == 1:
                bound += low * max(self.lower_bound(self.roots[factor.index]), 0.0) ** 0.5
            elif not (isinstance(factor, Moment) and factor.power == 2) and exponent % 2:
                return -np.inf
        return bound

    def show(self, p: Poly) -> str:
        """The polynomial for a report, e.g. `x*rstd - E[x]*rstd`."""
        if not p:
            return "0"
        terms = (self._show_term(m, c) for m, c in sorted(p.items(), key=lambda item: -len(item[0]))[:6])
        return " + ".join(terms).replace("+ -", "- ")

    def _show_term(self, monomial: Monomial, coefficient: Coefficient) -> str:
        value = coefficient.scalar()
        if value is None:
            head = "c[...]"
        else:
            head = "" if value == 1 and monomial else ("-" if value == -1 and monomial else f"{value:.6g}")
        parts = []
        for factor, exponent in sorted(monomial, key=lambda item: str(item[0])):
            text = str(factor)
            if isinstance(factor, Root | Log):
                text = f"{'sqrt' if isinstance(factor, Root) else 'log'}({self.show(self.roots[factor.index])})"
            parts.append(text if exponent == 1 else f"{text}^{exponent}")
        return ("*" if head not in ("", "-") and parts else "").join([head, "*".join(parts)])
