"""Layouts: which axes of x every dimension of a tensor holds.

The axes of x are cut into **atoms**, the pieces that Reshape ever separates: [N, C, H, W] grouped by 8 has the
atoms N, C0 (8, the group), C1 (C/8, the channel in its group), H, W. A layout is one tuple of atoms per dimension,
slowest first; () is a dimension of size 1. Reshape regroups atoms, Transpose permutes dimensions.

A **free** atom (axis None) belongs to a tensor that was not derived from x: a constant's dimension, or one that
Expand or Tile made. It is identified with an atom of x when the two meet in one dimension of an elementwise operator.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from fractions import Fraction

from gn_onnx.recognition.sizes import ONE, Size, product


@dataclasses.dataclass(frozen=True)
class Atom:
    """One piece of an axis. `axis` is the axis of x that it is cut from, None for a free atom."""

    axis: int | None
    index: int
    size: Size
    at: int | None = None
    """Set on a **slice mark**, an atom of size 1: the values are those at one position of the atom (axis, index)."""

    def __hash__(self) -> int:
        return hash((self.axis, self.index, self.at))  # hashed all the time; in one layout the size follows from these

    def mark(self, position: int) -> Atom:
        return Atom(self.axis, self.index, ONE, position)

    def __repr__(self) -> str:
        if self.at is not None:
            return f"{self.axis}.{self.index}@{self.at}"
        return f"{'free' if self.axis is None else self.axis}.{self.index}:{self.size}"


Dim = tuple[Atom, ...]
Dims = tuple[Dim, ...]
Renaming = dict[Atom, tuple[Atom, ...]]
"""What a free atom turned into: one atom it was identified with, or several that it was cut into."""

_fresh = itertools.count()


def free_atom(size: Size) -> Atom:
    return Atom(None, next(_fresh), size)


def free_dim(size: Size) -> Dim:
    return () if size.is_one else (free_atom(size),)


class LayoutError(Exception):
    """The layouts do not fit, so that no statement about the result can be made; the message says why."""


class Refine(Exception):  # noqa: N818 - control flow, not an error
    """An axis of x has to be cut finer: `atom` into an outer part of size `outer` and the rest."""

    def __init__(self, atom: Atom, outer: Size) -> None:
        super().__init__(f"{atom} is cut at {outer}")
        self.atom = atom
        self.outer = outer


class Bind(Exception):  # noqa: N818 - control flow, not an error
    """A symbolic size was found to be equal to a known one, since the model could not run otherwise."""

    def __init__(self, symbol: str, size: Size) -> None:
        super().__init__(f"{symbol} = {size}")
        self.symbol = symbol
        self.size = size


def dim_size(dim: Dim) -> Size:
    return product(atom.size for atom in dim)


def _cut(atom: Atom, outer: Size, renaming: Renaming) -> tuple[Atom, Atom]:
    if atom.axis is not None:
        raise Refine(atom, outer)
    parts = (free_atom(outer), free_atom(atom.size / outer))
    renaming[atom] = parts
    return parts


def regroup(dims: Dims, target: Sequence[Size]) -> tuple[Dims, Renaming]:
    """The layout after a Reshape to `target` (no 0 or -1 left in it).

    Raises:
        Refine: When an atom of x is cut.
        LayoutError: When the atoms do not fill the target dimensions in order.
    """
    queue = [atom for dim in dims for atom in dim]
    renaming: Renaming = {}
    out: list[list[Atom]] = []
    # What is known to be whole: C * H / 8 tells that 8 divides C (or that H has the factor), never that 16 does.
    whole = [Fraction(size.factor) for size in target if size.is_fraction]
    for size in target:
        current: list[Atom] = []
        need = size
        while not need.is_one:
            if not queue:
                raise LayoutError(f"the reshape to {_show(target)} needs more elements than there are")
            atom = queue.pop(0)
            quotient = need / atom.size
            if quotient.is_whole:
                current.append(atom)
                need = quotient
                continue
            rest = atom.size / need
            # (A batch of 1 divides nothing, and still runs where a spatial axis has the factor, broadcast afterwards.)
            fractions = [size.factor for size in (need, rest) if size.is_fraction]
            told = all(any((part / known).denominator == 1 for known in whole) for part in fractions)
            if not rest.is_whole or (fractions and (not told or atom.axis == 0)):
                raise LayoutError(f"the reshape to {_show(target)} cuts a dimension of size {atom.size} at {need}")
            outer, inner = _cut(atom, need, renaming)
            current.append(outer)
            queue.insert(0, inner)
            need = ONE
        out.append(current)
    if any(not atom.size.is_one for atom in queue) or (queue and not out):
        raise LayoutError(f"the reshape to {_show(target)} leaves elements over")
    if queue:
        out[-1].extend(queue)  # slice marks
    return tuple(tuple(dim) for dim in out), renaming


def resolve_target(dims: Sequence[Dim], target: Sequence[Size], *, allow_zero: bool) -> list[Size]:
    """The target shape of a Reshape with 0 (copy) and -1 (the rest) worked out.

    Raises:
        LayoutError: When 0 copies a dimension that is not there.
    """
    sizes = list(target)
    for i, size in enumerate(sizes):
        if size.is_zero and not allow_zero:
            if i >= len(dims):
                raise LayoutError("a 0 in the reshape's target copies a dimension that does not exist")
            sizes[i] = dim_size(dims[i])
    wildcards = [i for i, size in enumerate(sizes) if size == Size.of(-1)]
    if len(wildcards) > 1:
        raise LayoutError("more than one -1 in the reshape's target")
    if wildcards:
        known = product(size for i, size in enumerate(sizes) if i != wildcards[0])
        if known.is_zero:
            raise LayoutError("an empty tensor")
        rest = product(dim_size(dim) for dim in dims) / known
        if not rest.is_whole:
            raise LayoutError(f"the reshape to {_show(target)} does not divide the elements")
        sizes[wildcards[0]] = rest
    return sizes


def _substitute(dim: Sequence[Atom], renaming: Renaming) -> list[Atom]:
    out: list[Atom] = []
    for atom in dim:
        out.extend(_substitute(renaming[atom], renaming) if atom in renaming else (atom,))
    return out


def rename(dims: Dims, renaming: Renaming) -> Dims:
    return tuple(tuple(_substitute(dim, renaming)) for dim in dims)


def unify(left: Dims, right: Dims) -> tuple[Dims, Renaming]:
    """The layout of an elementwise result under NumPy broadcasting, and what the free atoms turned into.

    Raises:
        LayoutError: When the same position would mean different axes of x.
        Refine, Bind: When x has to be looked at again with finer atoms or a known size.
    """
    if left == right or (len(left) >= len(right) and not any(right)):
        return left, {}
    if len(right) >= len(left) and not any(left):
        return right, {}
    rank = max(len(left), len(right))
    left = ((),) * (rank - len(left)) + left
    right = ((),) * (rank - len(right)) + right
    marks = _joined_marks(left, right)
    renaming: Renaming = {}
    out: list[Dim] = []
    for i, (a, b) in enumerate(zip(_without_marks(left), _without_marks(right), strict=True)):
        a, b = tuple(_substitute(a, renaming)), tuple(_substitute(b, renaming))
        out.append(marks.get(i, ()) + (_unify_dim(a, b, renaming) if a and b else a or b))
    result = rename(tuple(out), renaming)
    atoms = [atom for dim in result for atom in dim]
    if len(set(atoms)) != len(atoms):
        raise LayoutError("the same axis of x would lie along two dimensions, as in a Gram matrix")
    return result, renaming


def _without_marks(dims: Dims) -> Dims:
    return tuple(tuple(atom for atom in dim if atom.at is None) for dim in dims)


def _joined_marks(left: Dims, right: Dims) -> dict[int, Dim]:
    """The slice marks of both, by dimension; having size 1, one may lie along any."""
    place: dict[Atom, int] = {}
    for dims in (left, right):
        for i, dim in enumerate(dims):
            for atom in dim:
                if atom.at is not None:
                    place.setdefault(atom, i)
    if len({(mark.axis, mark.index) for mark in place}) != len(place):
        raise LayoutError("values of different slices are combined")
    return {i: tuple(mark for mark, at in place.items() if at == i) for i in place.values()}


def _unify_dim(a: Dim, b: Dim, renaming: Renaming) -> Dim:
    if a == b:
        return a
    _bind_sizes(a, b)
    left, right = list(a), list(b)
    out: list[Atom] = []
    while left and right:
        u, v = left.pop(0), right.pop(0)
        if u == v:
            out.append(u)
            continue
        if u.axis is not None and v.axis is not None:
            raise LayoutError("values that lie along different axes are combined")
        if u.axis is not None:  # keep the free one on the left
            u, v, left, right = v, u, right, left
        if u.size == v.size:
            renaming[u] = (v,)
            out.append(v)
            continue
        if (u.size / v.size).is_whole:
            outer, inner = _cut(u, v.size, renaming)
            renaming[outer] = (v,)
            out.append(v)
            left.insert(0, inner)
        elif (v.size / u.size).is_whole and (v.size.static is not None or u.size.static is None):
            # (A known size that meets an unknown one may be broadcast against a 1, and cuts nothing.)
            outer, inner = _cut(v, u.size, renaming)
            renaming[u] = (outer,)
            out.append(outer)
            right.insert(0, inner)
        else:
            raise LayoutError(f"dimensions of size {u.size} and {v.size} are combined")
    if left or right:
        raise LayoutError(f"dimensions of size {dim_size(a)} and {dim_size(b)} are combined")
    return tuple(out)


def _bind_sizes(a: Dim, b: Dim) -> None:
    """Where a known size meets an unknown one that is cut into groups, it is that size.

    (A single channel, which does not divide into groups, would be broadcast against the parameters of many channels;
    that is no input for a network of that many.)
    """
    known, unknown = dim_size(a), dim_size(b)
    if known == unknown:
        return
    if known.static is None:
        known, unknown = unknown, known
    cut = any(atom.axis is not None and (atom.size.static or 0) > 1 for atom in (*a, *b))
    if cut and known.static is not None and len(unknown.symbols) == 1 and unknown.symbols[0][1] == 1:
        value = known / Size(unknown.factor)
        if value.is_whole:
            raise Bind(unknown.symbols[0][0], value)


def permutation(before: Dims, after: Dims) -> tuple[int, ...] | None:
    """The `perm` of a Transpose between two layouts that leaves the first dimension where it is; None if there is none."""
    if before == after or len(before) != len(after) or before[:1] != after[:1] or set(before) != set(after):
        return None
    places = {dim: [i for i, other in enumerate(before) if other == dim] for dim in after}
    return tuple(places[dim].pop(0) for dim in after)


def _show(target: Sequence[Size]) -> str:
    return "[" + ", ".join(str(size) for size in target) + "]"
