"""Slices that are written into a tensor one by one: y[:, i] = ..., which ONNX has as ScatterND and ScatterElements.

Until all slices of an axis are written, the tensor is one that is taken as it is, with a key that remembers them
(`Overlay`); with the last one it is what a Concat of them would be.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.integers import static
from gn_onnx.recognition.layout import dim_size
from gn_onnx.recognition.polynomials import NotExpressible, Overlay, Poly, Tensor, of_factor
from gn_onnx.recognition.transfer.common import TransferFunction, int_attribute, operand
from gn_onnx.recognition.transfer.slices import joined, overlay_of, whole, without_marks


def _scatter_nd(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """A range of one axis by ranges of indices in front of it: indices[i, j] = (i, first + j)."""
    indices = _indices(evaluation, node)
    axis = indices.shape[-1] - 1
    grid = indices.reshape(-1, axis + 1)
    data = evaluation.shape(node.inputs[0]) if node.inputs[0] is not None else None
    if data is None or not grid.size:
        raise NotExpressible("a ScatterND into a tensor of unknown shape")
    first = int(grid[0, axis])
    length = int(grid[-1, axis]) - first + 1
    counts = [size.static for size in data[:axis]]
    if None in counts or not 0 < length <= grid.size:
        raise NotExpressible("a ScatterND whose range is only known at run time")
    ranges = [np.arange(count) for count in counts if count is not None] + [np.arange(first, first + length)]
    expected = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1)
    if expected.size != grid.size or not np.array_equal(expected.reshape(grid.shape), grid):
        raise NotExpressible("a ScatterND to other places than one range of an axis")
    return _written(evaluation, node, depth, axis, first)


def _indices(evaluation: Evaluation, node: ir.Node) -> np.ndarray:
    value = node.inputs[1]
    array = None if value is None else evaluation.view.folded(value)
    if array is None:
        sizes = evaluation.integers(value)
        if sizes is None:
            raise NotExpressible("a ScatterND whose range is only known at run time")
        array = np.frompyfunc(static, 1, 1)(sizes).astype(np.int64)
    return array


def _scatter_elements(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """One position of an axis: the same index everywhere, as Expand repeats it."""
    updates = operand(evaluation, node, 2, depth)
    axis = int_attribute(evaluation, node, "axis", 0) % max(len(updates.dims), 1)
    repeated = None if node.inputs[1] is None else node.inputs[1].producer()
    value = repeated.inputs[0] if repeated is not None and repeated.op_type == "Expand" else node.inputs[1]
    index = None if value is None else evaluation.view.folded(value)
    if index is None or not index.size or np.any(index != index.ravel()[0]) or dim_size(updates.dims[axis]).static != 1:
        raise NotExpressible("a ScatterElements to other places than one position of an axis")
    return _written(evaluation, node, depth, axis, int(index.ravel()[0]))


def _written(evaluation: Evaluation, node: ir.Node, depth: int, axis: int, first: int) -> Fact:
    """The first operand with the last one written from position `first` of an axis."""
    reduction = evaluation.attribute(node, "reduction")
    if reduction is not None and reduction.as_string() != "none":
        raise NotExpressible(f"a {node.op_type} that does more than to write")
    data, updates = operand(evaluation, node, 0, depth), operand(evaluation, node, 2, depth)
    marks = [atom for dim in updates.dims for atom in dim if atom.at is not None]
    if len(marks) != 1 or len(data.dims) != len(updates.dims):
        raise NotExpressible(f"a {node.op_type} of something that is no slice of x")
    mark, outer, rest = marks[0], whole(evaluation, marks[0]), without_marks(updates.dims)
    length = dim_size(rest[axis]).static
    if length is None or first != (mark.at or 0) * length:
        raise NotExpressible("a slice is written to another place than it comes from")
    dims = (*rest[:axis], (outer, *rest[axis]), *rest[axis + 1 :])
    if [dim_size(dim) for dim in dims] != [dim_size(dim) for dim in data.dims]:
        raise NotExpressible(f"a {node.op_type} that leaves parts of a slice")
    overlay = overlay_of(data.poly)
    if overlay is None:
        written: dict[int, Poly] = {}
        before = data.poly if data.dims == dims or not data.poly else None
    elif overlay.outer != outer or data.dims != dims:
        raise NotExpressible("slices are written of different axes")
    else:
        written, before = overlay.slices, overlay.before
    slices = {**written, mark.at or 0: updates.poly}
    if len(slices) == outer.size.static:
        return Fact(joined(evaluation, [slices[i] for i in sorted(slices)], outer), dims)
    atoms = tuple(atom for dim in dims for atom in dim)
    return Fact(of_factor(Tensor(Overlay(outer, slices, before), atoms, "slices")), dims)


TABLE: dict[str, TransferFunction] = {"ScatterND": _scatter_nd, "ScatterElements": _scatter_elements}
