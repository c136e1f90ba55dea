"""Products that are summed: MatMul and Einsum, as sums of squares or as means by a matrix of zeros and weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.layout import Dims, dim_size, free_dim
from gn_onnx.recognition.polynomials import NotExpressible, constant, of_size
from gn_onnx.recognition.sizes import Size, product
from gn_onnx.recognition.transfer.common import TransferFunction, operand
from gn_onnx.recognition.transfer.elementwise import binary
from gn_onnx.recognition.transfer.moving import reshaped
from gn_onnx.recognition.transfer.reductions import mean_over


def _summed(evaluation: Evaluation, fact: Fact, axes: Sequence[int]) -> Fact:
    count = product(dim_size(fact.dims[axis]) for axis in axes)
    mean = mean_over(evaluation, fact, axes, keepdims=False)
    return Fact(evaluation.algebra.multiply(mean.poly, of_size(count)), mean.dims)


def _matmul(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    a, b = operand(evaluation, node, 0, depth), operand(evaluation, node, 1, depth)
    if len(a.dims) < 2 or len(b.dims) < 2:
        raise NotExpressible("a product with a vector")
    right = _matrix(evaluation, node.inputs[1])
    if right is not None:
        return _by_blocks(evaluation, a, right)
    left = _matrix(evaluation, node.inputs[0])
    if left is not None:
        return _swapped(_by_blocks(evaluation, _swapped(b), left.T))
    tall = Fact(a.poly, (*a.dims, ()))
    wide = Fact(b.poly, (*b.dims[:-2], (), *b.dims[-2:]))
    both = binary(evaluation, tall, wide, evaluation.algebra.multiply)
    return _summed(evaluation, both, [len(both.dims) - 2])


def _matrix(evaluation: Evaluation, value: ir.Value | None) -> np.ndarray | None:
    array = None if value is None else evaluation.view.folded(value)
    return array if array is not None and array.ndim == 2 and array.size else None


def _swapped(fact: Fact) -> Fact:
    dims: Dims = (*fact.dims[:-2], fact.dims[-1], fact.dims[-2])
    return Fact(fact.poly, dims)


def _by_blocks(evaluation: Evaluation, fact: Fact, matrix: np.ndarray) -> Fact:
    """fact @ matrix, where the matrix adds up equal runs of neighbours, repeats each element, or both, times one weight.

    Such a matrix has blocks of one number along its diagonal, `down` rows by `across` columns each.
    """
    rows, columns = matrix.shape
    weight = evaluation.unrounded(matrix.max())
    down, across = int(np.count_nonzero(matrix[:, 0])), int(np.count_nonzero(matrix[0]))
    if weight == 0 or not down or not across or rows % down or rows // down * across != columns:
        raise NotExpressible("a product with a matrix")
    blocks = np.kron(np.eye(rows // down), np.ones((down, across)))
    if not np.array_equal(matrix, matrix.max() * blocks):
        raise NotExpressible("a product with a matrix other than a mean of neighbours")
    axis = len(fact.dims) - 1
    summed = Fact(evaluation.algebra.multiply(fact.poly, constant(weight)), fact.dims)
    if down > 1:
        sizes = [dim_size(dim) for dim in fact.dims]
        cut = reshaped(summed, [*sizes[:axis], Size.of(rows // down), Size.of(down)])
        summed = _summed(evaluation, cut, [axis + 1])
    return Fact(summed.poly, (*summed.dims[:axis], summed.dims[axis] + free_dim(Size.of(across))))


def _einsum(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    equation = evaluation.attribute(node, "equation")
    text = equation.as_string().replace(" ", "") if equation is not None else ""
    terms, _, result = text.partition("->")
    operands = terms.split(",")
    if "." in text or "->" not in text or any(len(set(labels)) != len(labels) for labels in [*operands, result]):
        raise NotExpressible(f"an Einsum of the form {text!r}")
    order = list(dict.fromkeys("".join(operands)))
    total: Fact | None = None
    for i, labels in enumerate(operands):
        fact = operand(evaluation, node, i, depth)
        if len(fact.dims) != len(labels):
            raise NotExpressible("an Einsum of operands of another rank")
        dims: Dims = tuple(fact.dims[labels.index(label)] if label in labels else () for label in order)
        laid_out = Fact(fact.poly, dims)
        total = laid_out if total is None else binary(evaluation, total, laid_out, evaluation.algebra.multiply)
    assert total is not None
    summed = _summed(evaluation, total, [i for i, label in enumerate(order) if label not in result])
    kept = [label for label in order if label in result]
    return Fact(summed.poly, tuple(summed.dims[kept.index(label)] for label in result))


TABLE: dict[str, TransferFunction] = {"MatMul": _matmul, "Einsum": _einsum}
