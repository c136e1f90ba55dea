"""Means and sums over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.layout import dim_size
from gn_onnx.recognition.polynomials import NotExpressible, Poly, of_size
from gn_onnx.recognition.sizes import Size, product
from gn_onnx.recognition.transfer.common import TransferFunction, axes, int_attribute, ints_attribute, operand
from gn_onnx.recognition.transfer.moving import reshaped


def mean_over(evaluation: Evaluation, fact: Fact, reduced: Sequence[int], *, keepdims: bool = True) -> Fact:
    """E over whole dimensions of the layout."""
    over = frozenset(atom for axis in reduced for atom in fact.dims[axis])
    marks = frozenset(atom for dim in fact.dims for atom in dim if atom.at is not None)
    poly = evaluation.algebra.mean(fact.poly, over, marks)
    dims = tuple(() if i in reduced else dim for i, dim in enumerate(fact.dims) if keepdims or i not in reduced)
    return Fact(poly, dims)


def _reduced_axes(evaluation: Evaluation, node: ir.Node, rank: int) -> list[int] | None:
    found = axes(evaluation, node, rank)
    if found:
        return found
    if found == [] and evaluation.view.opset_version(node) < 13 and "axes" in node.attributes:
        return list(range(rank))
    return None if int_attribute(evaluation, node, "noop_with_empty_axes", 0) else list(range(rank))


def _reduction(
    before: Callable[[Evaluation, Poly], Poly], after: Callable[[Evaluation, Poly], Poly], *, total: bool
) -> TransferFunction:
    """`after(E or sum of before(v))`."""

    def apply(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
        fact = operand(evaluation, node, 0, depth)
        reduced = _reduced_axes(evaluation, node, len(fact.dims))
        fact = Fact(before(evaluation, fact.poly), fact.dims)
        if reduced is None:
            return Fact(after(evaluation, fact.poly), fact.dims)
        count = product(atom.size for axis in reduced for atom in fact.dims[axis])
        fact = mean_over(evaluation, fact, reduced, keepdims=bool(int_attribute(evaluation, node, "keepdims", 1)))
        poly = evaluation.algebra.multiply(fact.poly, of_size(count)) if total else fact.poly
        return Fact(after(evaluation, poly), fact.dims)

    return apply


def _same(evaluation: Evaluation, poly: Poly) -> Poly:
    return poly


def _square(evaluation: Evaluation, poly: Poly) -> Poly:
    return evaluation.algebra.multiply(poly, poly)


def _sqrt(evaluation: Evaluation, poly: Poly) -> Poly:
    return evaluation.algebra.sqrt(poly)


def _global_average_pool(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    fact = operand(evaluation, node, 0, depth)
    if len(fact.dims) < 3:
        raise NotExpressible("GlobalAveragePool without spatial dimensions")
    return mean_over(evaluation, fact, range(2, len(fact.dims)))


def _average_pool(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """AveragePool over the whole map, or over windows side by side."""
    fact = operand(evaluation, node, 0, depth)
    window = windows(evaluation, node, fact, ints_attribute(evaluation, node, "kernel_shape") or [])
    return averaged(evaluation, fact, window)


def windows(evaluation: Evaluation, node: ir.Node, fact: Fact, kernel: Sequence[int]) -> list[int | None]:
    """For every spatial axis: None where it stays as it is, else how many neighbours become one.

    Raises:
        NotExpressible: When windows overlap, leave something out, or reach beyond the map.
    """
    spatial = [dim_size(dim).static for dim in fact.dims[2:]]
    strides = ints_attribute(evaluation, node, "strides") or [1] * len(kernel)
    padded = any(ints_attribute(evaluation, node, "pads") or [])
    automatic = evaluation.attribute(node, "auto_pad")
    if automatic is not None and automatic.as_string() not in ("NOTSET", "VALID"):
        padded = True
    if (
        padded
        or not len(kernel) == len(spatial) == len(strides)
        or set(ints_attribute(evaluation, node, "dilations") or [1]) != {1}
    ):
        raise NotExpressible(f"{node.op_type} over windows that reach beyond the map or have gaps")
    found: list[int | None] = []
    for length, stride, size in zip(kernel, strides, spatial, strict=True):
        if length == stride == 1:
            found.append(None)
        elif size is not None and (length == size or (length == stride and size % length == 0)):
            found.append(length)
        else:
            raise NotExpressible(f"{node.op_type} over windows that are neither the whole map nor equal parts of it")
    return found


def averaged(evaluation: Evaluation, fact: Fact, window: Sequence[int | None]) -> Fact:
    """The mean of each window."""
    for axis, length in enumerate(window, start=2):
        if length is None:
            continue
        sizes = [dim_size(dim) for dim in fact.dims]
        parts = [sizes[axis] / Size.of(length), Size.of(length)]
        cut = reshaped(fact, [*sizes[:axis], *parts, *sizes[axis + 1 :]])
        fact = mean_over(evaluation, cut, [axis + 1], keepdims=False)
    return fact


TABLE: dict[str, TransferFunction] = {
    "ReduceMean": _reduction(_same, _same, total=False),
    "ReduceSum": _reduction(_same, _same, total=True),
    "ReduceSumSquare": _reduction(_square, _same, total=True),
    "ReduceL2": _reduction(_square, _sqrt, total=True),
    "GlobalAveragePool": _global_average_pool,
    "AveragePool": _average_pool,
}
