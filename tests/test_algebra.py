"""Laws of the algebra, against NumPy: every expression means what its arrays say.

A polynomial over x [G, K, S] is evaluated at a random x by its definition (moments as means, roots as roots). The
laws: evaluation commutes with +, *, 1/., sqrt, powers and means; a lower bound is a lower bound.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gn_onnx.recognition.algebra import Algebra
from gn_onnx.recognition.layout import Atom
from gn_onnx.recognition.polynomials import THE_X, Coefficient, Moment, NotExpressible, Poly, Root, constant, of_factor
from gn_onnx.recognition.sizes import Size

steady = settings(deadline=None)
"""The first example pays for imports; a busy machine is no failure."""

SIZES = (2, 3, 4)
ATOMS = tuple(Atom(0, i, Size.of(n)) for i, n in enumerate(SIZES))
ALL = frozenset(ATOMS)
GROUP = frozenset(ATOMS[1:])

numbers = st.sampled_from([-2.0, -1.0, -0.5, 0.5, 1.0, 3.0])
groups = st.sampled_from([GROUP, ALL, frozenset(ATOMS[2:])])


@st.composite
def coefficients(draw: st.DrawFn) -> Coefficient:
    """A number, or one number per position of the first atom or of the first two."""
    rank = draw(st.integers(0, 2))
    array = np.array(draw(st.lists(numbers, min_size=6, max_size=6)))[: int(np.prod(SIZES[:rank]))]
    return Coefficient(array.reshape(SIZES[:rank]), ATOMS[:rank])


@st.composite
def polynomials(draw: st.DrawFn) -> Poly:
    """A few terms in x and its means."""
    algebra = Algebra(ALL)
    total: Poly = {}
    for _ in range(draw(st.integers(1, 3))):
        factor = draw(st.sampled_from([None, THE_X, Moment(1, GROUP), Moment(2, GROUP), Moment(1, ALL)]))
        term = constant(1.0) if factor is None else of_factor(factor)
        term = algebra.multiply(term, {frozenset(): draw(coefficients())})
        total = algebra.add(total, term)
    return total


def value(algebra: Algebra, poly: Poly, x: np.ndarray) -> np.ndarray:
    """The polynomial at x, of x's shape."""
    total = np.zeros(x.shape)
    for monomial, coefficient in poly.items():
        term = np.broadcast_to(coefficient.aligned(ATOMS), x.shape).copy()
        for factor, exponent in monomial:
            term = term * _factor(algebra, factor, x) ** float(exponent)
        total = total + term
    return total


def _factor(algebra: Algebra, factor: object, x: np.ndarray) -> np.ndarray:
    if factor == THE_X:
        return x
    if isinstance(factor, Moment):
        axes = tuple(i for i, atom in enumerate(ATOMS) if atom in factor.atoms)
        return np.broadcast_to((x**factor.power).mean(axis=axes, keepdims=True), x.shape)
    assert isinstance(factor, Root)
    return np.sqrt(value(algebra, algebra.roots[factor.index], x).astype(complex))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal where both are finite, within rounding."""
    a, b = a.astype(complex), b.astype(complex)
    finite = np.isfinite(a) & np.isfinite(b)
    scale = max(1.0, float(np.max(np.abs(b[finite]), initial=0.0)))
    return bool(np.all(np.abs(a[finite] - b[finite]) <= 1e-6 * scale))


X = np.random.default_rng(0).normal(size=SIZES) + 0.3


@steady
@given(polynomials(), polynomials())
def test_sum_and_product_mean_what_they_say(p: Poly, q: Poly) -> None:
    algebra = Algebra(ALL)
    u, v = value(algebra, p, X), value(algebra, q, X)
    assert same(value(algebra, algebra.add(p, q), X), u + v)
    assert same(value(algebra, algebra.add(p, q, -1.0), X), u - v)
    assert same(value(algebra, algebra.multiply(p, q), X), u * v)


@steady
@given(polynomials(), polynomials(), polynomials())
def test_ring_laws(p: Poly, q: Poly, r: Poly) -> None:
    algebra = Algebra(ALL)
    add, multiply = algebra.add, algebra.multiply
    assert _zero(algebra, add(multiply(p, q), multiply(q, p), -1.0))
    assert _zero(algebra, add(multiply(p, add(q, r)), add(multiply(p, q), multiply(p, r)), -1.0))
    assert not add(p, p, -1.0)


def _zero(algebra: Algebra, poly: Poly) -> bool:
    return same(value(algebra, poly, X), np.zeros(SIZES))


@steady
@given(polynomials(), groups)
def test_mean_is_the_mean(p: Poly, over: frozenset[Atom]) -> None:
    algebra = Algebra(ALL)
    axes = tuple(i for i, atom in enumerate(ATOMS) if atom in over)
    try:
        mean = algebra.mean(p, over)
    except NotExpressible:
        return
    want = np.broadcast_to(value(algebra, p, X).mean(axis=axes, keepdims=True), SIZES)
    assert same(value(algebra, mean, X), want)


@steady
@given(polynomials(), polynomials(), groups)
def test_mean_is_linear(p: Poly, q: Poly, over: frozenset[Atom]) -> None:
    algebra = Algebra(ALL)
    try:
        whole = algebra.mean(algebra.add(p, q), over)
        parts = algebra.add(algebra.mean(p, over), algebra.mean(q, over))
    except NotExpressible:
        return
    assert same(value(algebra, whole, X), value(algebra, parts, X))


@steady
@given(polynomials())
def test_inverse_is_the_reciprocal(p: Poly) -> None:
    algebra = Algebra(ALL)
    try:
        inverse = algebra.inverse(p)
    except NotExpressible:
        return
    with np.errstate(all="ignore"):
        assert same(value(algebra, inverse, X), 1.0 / value(algebra, p, X))


@settings(max_examples=300, deadline=None)
@given(
    polynomials(), st.lists(st.sampled_from(["inverse", "sqrt", "square", "2", "-2", "0.5", "-0.5"]), min_size=1, max_size=4)
)
def test_roots_and_powers_keep_the_sign(p: Poly, steps: list[str]) -> None:
    """A chain of reciprocals, roots and powers is, where it is real, the positive root and nothing else."""
    algebra = Algebra(ALL)
    u = value(algebra, p, X).real
    poly = p
    with np.errstate(all="ignore"):
        for step in steps:
            try:
                if step == "inverse":
                    poly, u = algebra.inverse(poly), 1.0 / u
                elif step == "sqrt":
                    poly, u = algebra.sqrt(poly), np.sqrt(u)
                elif step == "square":
                    poly, u = algebra.multiply(poly, poly), u * u
                else:
                    poly, u = algebra.power(poly, float(step)), np.power(u, float(step))
            except NotExpressible:
                return
        got = value(algebra, poly, X)
    real = np.isfinite(u) & (np.abs(u) < 1e8)
    assert same(got[real], u[real])


@steady
@given(polynomials())
def test_a_lower_bound_is_never_passed(p: Poly) -> None:
    algebra = Algebra(ALL)
    bound = algebra.lower_bound(p)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=SIZES) * 3 - 1
        assert np.min(value(algebra, p, x).real) >= bound - 1e-6 * (1 + abs(bound))


def test_group_norm_has_one_normal_form() -> None:
    algebra = Algebra(ALL)
    x = of_factor(THE_X)
    mean = algebra.mean(x, GROUP)
    centred = algebra.add(x, mean, -1.0)
    by_deviation = algebra.mean(algebra.multiply(centred, centred), GROUP)
    by_squares = algebra.add(algebra.mean(algebra.multiply(x, x), GROUP), algebra.multiply(mean, mean), -1.0)
    forms = []
    for variance in (by_deviation, by_squares):
        shifted = algebra.add(variance, constant(1e-5))
        for rstd in (
            algebra.inverse(algebra.sqrt(shifted)),
            algebra.sqrt(algebra.inverse(shifted)),
            algebra.power(shifted, -0.5),
        ):
            forms.append(algebra.multiply(centred, rstd))
            forms.append(algebra.add(algebra.multiply(x, rstd), algebra.multiply(mean, rstd), -1.0))
    assert all(form.keys() == forms[0].keys() for form in forms)
    assert all(not algebra.add(form, forms[0], -1.0) for form in forms)
