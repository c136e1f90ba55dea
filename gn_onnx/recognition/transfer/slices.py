"""Equal slices of an axis, worked on one by one, and put together again: a loop over groups.

A slice keeps its place in the layout as a mark (`Atom.mark`), so that values of different slices never meet. Concat
of all slices in order gives the axis back, where the same was computed of each.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.layout import Atom, Dims, dim_size, free_dim
from gn_onnx.recognition.polynomials import Coefficient, NotExpressible, Overlay, Poly, Tensor
from gn_onnx.recognition.sizes import Size
from gn_onnx.recognition.transfer.common import TransferFunction, int_attribute, ints_attribute, operand
from gn_onnx.recognition.transfer.moving import gather, reshaped


def _part(evaluation: Evaluation, fact: Fact, axis: int, count: int, position: int) -> Fact:
    """One of `count` equal slices of an axis. Raises Refine where the axis is not cut that way yet."""
    sizes = [dim_size(dim) for dim in fact.dims]
    cut = reshaped(fact, [*sizes[:axis], Size.of(count), sizes[axis] / Size.of(count), *sizes[axis + 1 :]])
    if len(cut.dims[axis]) != 1 or cut.dims[axis][0].axis is None:
        raise NotExpressible("a slice that is not one piece of an axis of the input")
    (outer,) = cut.dims[axis]
    poly: Poly = {}
    for monomial, coefficient in seen_through(cut.poly, outer, position).items():
        if any(isinstance(f, Tensor) and outer in f.atoms for f, _ in monomial):
            raise NotExpressible("a slice of another tensor")
        array, atoms = coefficient.array, coefficient.atoms
        if outer in atoms:
            array = array.take(position, axis=atoms.index(outer))
            atoms = tuple(atom for atom in atoms if atom != outer)
        poly[monomial] = Coefficient(array, atoms)
    mark = outer.mark(position)
    dim = (mark, *cut.dims[axis + 1])
    return Fact(evaluation.algebra.marked(poly, frozenset({mark})), (*cut.dims[:axis], dim, *cut.dims[axis + 2 :]))


def overlay_of(poly: Poly) -> Overlay | None:
    """What was written into a tensor, where the value is that tensor and nothing else."""
    if len(poly) != 1:
        return None
    ((monomial, coefficient),) = poly.items()
    ((factor, exponent),) = monomial if len(monomial) == 1 else ((None, 0),)
    alone = isinstance(factor, Tensor) and exponent == 1 and coefficient.scalar() == 1.0
    return factor.key if alone and isinstance(factor, Tensor) and isinstance(factor.key, Overlay) else None


def seen_through(poly: Poly, outer: Atom, position: int) -> Poly:
    """What lies at one position of a tensor that slices were written into: the slice, or what was there before."""
    overlay = overlay_of(poly)
    if overlay is None:
        return poly
    if overlay.outer != outer:
        raise NotExpressible("a slice of what was written in other slices")
    there = overlay.slices.get(position, overlay.before)
    if there is None:
        raise NotExpressible("a slice that was not written")
    return there


_UNEVEN_SPLIT = 18
"""Before this opset a Split without sizes fails where the parts are not equal."""


def _split(evaluation: Evaluation, node: ir.Node, depth: int) -> dict[ir.Value, Fact]:
    fact = operand(evaluation, node, 0, depth)
    axis = int_attribute(evaluation, node, "axis", 0) % max(len(fact.dims), 1)
    count = len(node.outputs)
    sizes = ints_attribute(evaluation, node, "split")
    if sizes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        array = evaluation.integers(node.inputs[1])
        sizes = None if array is None else [size.static or 0 for size in array.ravel()]
    if sizes is None and dim_size(fact.dims[axis]).static is None and evaluation.view.opset_version(node) >= _UNEVEN_SPLIT:
        raise NotExpressible("a Split of an axis of unknown size, whose last part may be smaller")
    if count < 2 or (sizes is not None and len(set(sizes)) != 1):
        raise NotExpressible("a Split into parts of different sizes")
    return {value: _part(evaluation, fact, axis, count, i) for i, value in enumerate(node.outputs)}


def _slice(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    fact = operand(evaluation, node, 0, depth)
    for axis, start, end in _ranges(evaluation, node, len(fact.dims)):
        size = dim_size(fact.dims[axis]).static
        if start == 0 and end >= _TO_THE_END:
            continue
        if size is None or size == 0:
            raise NotExpressible("a Slice of an axis of unknown size")
        first, last, _ = slice(start, end).indices(size)
        length = last - first
        if length == size:
            continue
        if length <= 0 or size % length or first % length:
            raise NotExpressible("a Slice that is not one of several equal parts")
        fact = _part(evaluation, fact, axis, size // length, first // length)
    return fact


_TO_THE_END = 10**9
"""Exporters write this or a larger number for an open end."""


def _ranges(evaluation: Evaluation, node: ir.Node, rank: int) -> list[tuple[int, int, int]]:
    """(axis, start, end) of a Slice with steps of 1."""
    starts, ends = ints_attribute(evaluation, node, "starts"), ints_attribute(evaluation, node, "ends")
    along, steps = ints_attribute(evaluation, node, "axes"), None
    if starts is None or ends is None:
        values = [_known(evaluation, value) for value in node.inputs[1:]]
        starts, ends = values[0], values[1]
        along = values[2] if len(values) > 2 else None
        steps = values[3] if len(values) > 3 else None
    if starts is None or ends is None:
        raise NotExpressible("a Slice whose range is only known at run time")
    along = list(range(len(starts))) if along is None else [axis % rank for axis in along]
    if any(step != 1 for step in steps or []) or not len(starts) == len(ends) == len(along):
        raise NotExpressible("a Slice with steps")
    return list(zip(along, starts, ends, strict=True))


def _known(evaluation: Evaluation, value: ir.Value | None) -> list[int] | None:
    array = None if value is None else evaluation.integers(value)
    if array is None:
        if value is None:
            return None
        raise NotExpressible("a Slice whose range is only known at run time")
    numbers = [size.static for size in array.ravel()]
    if any(number is None for number in numbers):
        raise NotExpressible("a Slice whose range is only known at run time")
    return [number for number in numbers if number is not None]


def _gather(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """Gather of one position, x[:, i], is a slice without its axis; of several, it repeats an axis (moving.py)."""
    indices = None if node.inputs[1] is None else evaluation.view.folded(node.inputs[1])
    fact = operand(evaluation, node, 0, depth)
    if indices is None or indices.ndim or not fact.dims:
        return gather(evaluation, node, depth)
    axis = int_attribute(evaluation, node, "axis", 0) % len(fact.dims)
    size = dim_size(fact.dims[axis]).static
    if size is None or not -size <= int(indices) < size:
        raise NotExpressible("a Gather of one position of an axis of unknown size")
    part = fact if size == 1 else _part(evaluation, fact, axis, size, int(indices) % size)
    rest = [dim for i, dim in enumerate(part.dims) if i != axis]
    if part.dims[axis] and not rest:
        raise NotExpressible("a Gather of a single element")
    if part.dims[axis]:
        rest[-1] = part.dims[axis] + rest[-1]  # the slice mark has to stay somewhere
    return Fact(part.poly, tuple(rest))


def _concat(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    if len(set(node.inputs)) == 1:
        return _copies(evaluation, node, depth)
    facts = [operand(evaluation, node, i, depth) for i in range(len(node.inputs))]
    axis = int_attribute(evaluation, node, "axis", 0) % max(len(facts[0].dims), 1)
    marks = [atom for f in facts for dim in f.dims for atom in dim if atom.at is not None]
    if [mark.at for mark in marks] != list(range(len(facts))) or len({(m.axis, m.index) for m in marks}) != 1:
        raise NotExpressible("a Concat of other things than all slices of one axis in order")
    outer = whole(evaluation, marks[0])
    if outer.size != Size.of(len(facts)):
        raise NotExpressible("a Concat of some of an axis' slices")
    rests = {without_marks(f.dims) for f in facts}
    if len(rests) != 1:
        raise NotExpressible("a Concat of slices in different layouts")
    (dims,) = rests
    stacked = joined(evaluation, [f.poly for f in facts], outer)
    return Fact(stacked, (*dims[:axis], (outer, *dims[axis]), *dims[axis + 1 :]))


def joined(evaluation: Evaluation, slices: list[Poly], outer: Atom) -> Poly:
    """The expression of the whole axis piece `outer`, of that of each of its slices."""
    polys = [evaluation.algebra.without_mark(poly, outer.mark(i)) for i, poly in enumerate(slices)]
    if len({frozenset(poly) for poly in polys}) != 1:
        raise NotExpressible("different things were computed of the slices")
    return {monomial: _stacked([poly[monomial] for poly in polys], outer) for monomial in polys[0]}


def whole(evaluation: Evaluation, mark: Atom) -> Atom:
    """The piece of an axis that a mark is one position of."""
    return next(a for a in evaluation.algebra.x_atoms if (a.axis, a.index) == (mark.axis, mark.index))


def without_marks(dims: Dims) -> Dims:
    return tuple(tuple(atom for atom in dim if atom.at is None) for dim in dims)


def _stacked(coefficients: list[Coefficient], outer: Atom) -> Coefficient:
    atoms = tuple(dict.fromkeys(atom for c in coefficients for atom in c.atoms))
    arrays = np.broadcast_arrays(*(c.aligned(atoms) for c in coefficients))
    if all(np.array_equal(array, arrays[0]) for array in arrays):
        return Coefficient(arrays[0], atoms)
    return Coefficient(np.stack(arrays), (outer, *atoms))


def _copies(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """Concat of several copies of one value is a Tile."""
    fact = operand(evaluation, node, 0, depth)
    axis = int_attribute(evaluation, node, "axis", 0) % max(len(fact.dims), 1)
    dim = free_dim(Size.of(len(node.inputs))) + fact.dims[axis]
    return dataclasses.replace(fact, dims=(*fact.dims[:axis], dim, *fact.dims[axis + 1 :]))


TABLE: dict[str, TransferFunction] = {"Split": _split, "Slice": _slice, "Gather": _gather, "Concat": _concat}
