"""Layouts against NumPy: what Reshape, Transpose and broadcasting do to dims, they do to an array of positions.

`numbers(dims)` builds the array that a layout describes: at each place the position in x that it holds. An operator
on the layout has to give the array that NumPy gives for the same operator on the array.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gn_onnx.recognition.layout import (
    Atom,
    Dims,
    LayoutError,
    Refine,
    dim_size,
    free_dim,
    regroup,
    resolve_target,
    unify,
)
from gn_onnx.recognition.sizes import Size, product

steady = settings(deadline=None)
"""The first example pays for imports; a busy machine is no failure."""


def atoms_of(sizes: tuple[int, ...]) -> tuple[Atom, ...]:
    return tuple(Atom(i, 0, Size.of(n)) for i, n in enumerate(sizes))


def numbers(dims: Dims, atoms: tuple[Atom, ...]) -> np.ndarray:
    """Position in x (its atoms in order, row-major) at every place of a tensor with this layout."""
    order = [atoms.index(atom) for dim in dims for atom in dim]
    whole = np.arange(math.prod(a.size.static for a in atoms)).reshape([a.size.static for a in atoms])
    return whole.transpose(order).reshape([dim_size(dim).static for dim in dims])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Dims, tuple[Atom, ...]]:
    """Some atoms in any order, spread over some dimensions."""
    atoms = atoms_of(tuple(draw(st.lists(st.sampled_from([2, 2, 3, 4]), min_size=1, max_size=4))))
    order = draw(st.permutations(atoms))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=3)))
    edges = [0, *cuts, len(order)]
    return tuple(tuple(order[a:b]) for a, b in itertools.pairwise(edges)), atoms


@st.composite
def targets(draw: st.DrawFn, total: int) -> list[int]:
    target = []
    while total > 1 and len(target) < 4:
        size = draw(st.sampled_from([n for n in range(1, total + 1) if total % n == 0]))
        target.append(size)
        total //= size
    return [*target, total]


@steady
@given(st.data())
def test_reshape_is_numpys(data: st.DataObject) -> None:
    dims, atoms = data.draw(layouts())
    array = numbers(dims, atoms)
    target = data.draw(targets(array.size))
    try:
        new, renaming = regroup(dims, [Size.of(n) for n in target])
    except (Refine, LayoutError):
        return
    assert not renaming, "no free atoms here"
    assert np.array_equal(numbers(new, atoms), array.reshape(target))


@steady
@given(st.data())
def test_reshape_there_and_back(data: st.DataObject) -> None:
    dims, atoms = data.draw(layouts())
    target = data.draw(targets(numbers(dims, atoms).size))
    try:
        new, _ = regroup(dims, [Size.of(n) for n in target])
    except (Refine, LayoutError):
        return
    back, _ = regroup(new, [dim_size(dim) for dim in dims])
    assert back == dims


@steady
@given(st.data())
def test_zero_and_minus_one_are_numpys(data: st.DataObject) -> None:
    dims, atoms = data.draw(layouts())
    array = numbers(dims, atoms)
    target = data.draw(targets(array.size))
    place = data.draw(st.integers(0, len(target) - 1))
    given_target = [Size.of(-1 if i == place else n) for i, n in enumerate(target)]
    resolved = resolve_target(dims, given_target, allow_zero=False)
    assert [size.static for size in resolved] == target
    if len(target) <= array.ndim and target[0] == array.shape[0]:
        resolved = resolve_target(dims, [Size.of(0), *given_target[1:]], allow_zero=False)
        assert product(resolved) == Size.of(array.size)


@steady
@given(st.data())
def test_broadcasting_keeps_the_atoms_where_they_are(data: st.DataObject) -> None:
    """x against a part of itself (a mean, say): the result is x's layout."""
    dims, _ = data.draw(layouts())
    kept = data.draw(st.lists(st.booleans(), min_size=len(dims), max_size=len(dims)))
    part = tuple(dim if keep else () for dim, keep in zip(dims, kept, strict=True))
    result, renaming = unify(dims, part)
    assert result == dims
    assert not renaming


@steady
@given(st.data())
def test_a_constant_takes_the_place_of_the_axis_that_it_meets(data: st.DataObject) -> None:
    dims, _ = data.draw(layouts())
    place = data.draw(st.integers(0, len(dims) - 1))
    constant = tuple(free_dim(dim_size(dim)) if i == place else () for i, dim in enumerate(dims))
    trailing = constant[data.draw(st.integers(0, place)) :]
    result, renaming = unify(dims, trailing)
    assert result == dims
    for free in constant[place]:
        assert renaming, "the free atom is identified"
        names = renaming[free]
        while any(name in renaming for name in names):
            names = tuple(final for name in names for final in renaming.get(name, (name,)))
        assert names == dims[place]


def test_two_axes_of_one_size_do_not_meet() -> None:
    height, width = atoms_of((4, 4))
    with pytest.raises(LayoutError, match="different axes"):
        unify(((height,), (width,)), ((width,), (height,)))


def test_an_axis_does_not_lie_along_two_dimensions() -> None:
    (row,) = atoms_of((4,))
    with pytest.raises(LayoutError, match="two dimensions"):
        unify(((row,), ()), ((), (row,)))


def test_a_reshape_that_cuts_an_axis_asks_for_finer_atoms() -> None:
    channels, space = atoms_of((8, 5))
    with pytest.raises(Refine) as refine:
        regroup(((channels,), (space,)), [Size.of(4), Size.of(10)])
    assert refine.value.atom == channels
    assert refine.value.outer == Size.of(4)


def test_a_reshape_across_axes_is_refused() -> None:
    channels, space = atoms_of((8, 9))
    with pytest.raises(LayoutError, match="cuts a dimension"):
        regroup(((channels,), (space,)), [Size.of(3), Size.of(24)])


@steady
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(["N", "H"]))
def test_sizes_divide_exactly_or_not_at_all(a: int, b: int, name: str) -> None:
    symbol = Size.symbol(name)
    assert (Size.of(a) * symbol / symbol) == Size.of(a)
    assert (Size.of(a) / Size.of(b)).is_whole == (a % b == 0)
    assert (Size.of(a) * Size.of(b) / Size.of(b)).static == a
    assert not (Size.of(a) / symbol).is_whole
    assert (symbol * Size.of(b)).substitute({name: Size.of(a)}).static == a * b
