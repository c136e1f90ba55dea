"""Products that are summed: as sums of squares, or as means by a matrix of zeros and weights."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.layout import Dims, dim_size, free_dim
from gn_onnx.recognition.model_view import MAX_CONSTANT_ELEMENTS
from gn_onnx.recognition.polynomials import NotExpressible, Poly, constant, of_size
from gn_onnx.recognition.sizes import Size, product
from gn_onnx.recognition.transfer.common import TransferFunction, float_attribute, has_input, int_attribute, operand
from gn_onnx.recognition.transfer.elementwise import binary
from gn_onnx.recognition.transfer.moving import reshaped
from gn_onnx.recognition.transfer.reductions import averaged, mean_over, windows


def _summed(evaluation: Evaluation, fact: Fact, axes: Sequence[int]) -> Fact:
    count = product(dim_size(fact.dims[axis]) for axis in axes)
    mean = mean_over(evaluation, fact, axes, keepdims=False)
    return Fact(evaluation.algebra.multiply(mean.poly, of_size(count)), mean.dims)


def _matmul(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    return _product(evaluation, node, depth)


def _fused_matmul(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """ONNX Runtime's MatMul with a factor and transposed operands."""
    if any(int_attribute(evaluation, node, name, 0) for name in ("transBatchA", "transBatchB")):
        raise NotExpressible("a product of transposed batches")
    result = _product(evaluation, node, depth)
    return Fact(evaluation.algebra.multiply(result.poly, _factor(evaluation, node, "alpha")), result.dims)


def _gemm(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """alpha * a @ b + beta * c, as optimisers write a MatMul and the Add behind it."""
    result = _product(evaluation, node, depth)
    scaled = Fact(evaluation.algebra.multiply(result.poly, _factor(evaluation, node, "alpha")), result.dims)
    if not has_input(node, 2):
        return scaled
    c, beta = operand(evaluation, node, 2, depth), _factor(evaluation, node, "beta")
    return binary(evaluation, scaled, Fact(evaluation.algebra.multiply(c.poly, beta), c.dims), evaluation.algebra.add)


def _factor(evaluation: Evaluation, node: ir.Node, name: str) -> Poly:
    """An attribute that is 1 where it is not given; 1/n as float32 is read as 1/n."""
    value = np.float32(float_attribute(evaluation, node, name, 1.0))
    return constant(evaluation.unrounded(value)) if value else {}


def _product(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """a @ b, each with its last two axes swapped where transA or transB says so."""
    a, left = _side(evaluation, node, 0, depth, "transA")
    b, right = _side(evaluation, node, 1, depth, "transB")
    vector = len(b.dims) == 1
    if len(a.dims) < 2 or not b.dims:
        raise NotExpressible("a product with a vector")
    if right is not None:
        mixed = _by_blocks(evaluation, a, right)
        return Fact(mixed.poly, mixed.dims[:-1]) if vector else mixed
    if vector:
        return _summed(evaluation, binary(evaluation, a, b, evaluation.algebra.multiply), [len(a.dims) - 1])
    if left is not None:  # two dimensions, as a has
        return _swapped(_by_blocks(evaluation, _swapped(b), left.T))
    tall = Fact(a.poly, (*a.dims, ()))
    wide = Fact(b.poly, (*b.dims[:-2], (), *b.dims[-2:]))
    both = binary(evaluation, tall, wide, evaluation.algebra.multiply)
    return _summed(evaluation, both, [len(both.dims) - 2])


def _side(evaluation: Evaluation, node: ir.Node, index: int, depth: int, transposed: str) -> tuple[Fact, np.ndarray | None]:
    """An operand, and the matrix that it is where it is constant."""
    fact, matrix = operand(evaluation, node, index, depth), _matrix(evaluation, node.inputs[index])
    if not int_attribute(evaluation, node, transposed, 0) or len(fact.dims) < 2:
        return fact, matrix
    return _swapped(fact), None if matrix is None else matrix.T


def _matrix(evaluation: Evaluation, value: ir.Value | None) -> np.ndarray | None:
    """A constant matrix; a vector is one column."""
    array = None if value is None else evaluation.view.folded(value)
    if array is None or array.ndim not in (1, 2) or not array.size:
        return None
    return array.reshape(len(array), -1)


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


def _without_ellipsis(equation: str, ranks: Sequence[int]) -> str:
    """The equation with letters of their own for `...`, where it stands for as many axes in every operand."""
    terms = equation.partition("->")[0].split(",")
    hidden = {rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=False) if "..." in term}
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    if len(hidden) != 1 or not 0 <= min(hidden) <= len(unused):
        return equation
    return equation.replace("...", "".join(unused[: min(hidden)]))


def _einsum(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    equation = evaluation.attribute(node, "equation")
    text = equation.as_string().replace(" ", "") if equation is not None else ""
    ranks = [len(operand(evaluation, node, i, depth).dims) for i in range(len(node.inputs))]
    terms, _, result = _without_ellipsis(text, ranks).partition("->")
    operands = terms.split(",")
    if "." in terms + result or "->" not in text or any(len(set(labels)) != len(labels) for labels in [*operands, result]):
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


def _is_one_number(array: np.ndarray) -> bool:
    """Whether all elements that are not 0 are the same number."""
    used = array[array != 0]
    return bool(np.all(used == used[:1]))


def _conv(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """A convolution whose kernel covers one position or the whole map and sums up channels in equal blocks."""
    weights = None if node.inputs[1] is None else evaluation.view.constant(node.inputs[1])
    if weights is None or weights.ndim < 3 or not weights.size:
        raise NotExpressible("a convolution with weights that are not constant")
    kernel = weights.reshape(*weights.shape[:2], -1)
    used = kernel[kernel != 0] if _is_one_number(kernel[0]) else kernel[:0]
    if not used.size or not _is_one_number(used) or not np.array_equal(kernel[:, :, :1] + 0 * kernel, kernel):
        raise NotExpressible("a convolution whose weights are not those of a mean")
    fact = operand(evaluation, node, 0, depth)
    window = windows(evaluation, node, fact, weights.shape[2:])
    groups = int_attribute(evaluation, node, "group", 1)
    if weights.shape[0] * weights.shape[1] * groups > MAX_CONSTANT_ELEMENTS:
        raise NotExpressible("a convolution of very many channels")
    blocks = np.split(kernel[:, :, 0], groups)  # each: [channels out, channels in] of one group
    matrix = np.zeros((sum(b.shape[1] for b in blocks), weights.shape[0]), kernel.dtype)
    for i, block in enumerate(blocks):
        rows, columns = block.shape[1], block.shape[0]
        matrix[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] = block.T
    mean = averaged(evaluation, fact, window)
    count = float(np.prod([n or 1 for n in window]))
    total = Fact(evaluation.algebra.multiply(mean.poly, constant(count)), mean.dims)
    last = Fact(total.poly, (total.dims[0], *total.dims[2:], total.dims[1]))
    mixed = _by_blocks(evaluation, last, matrix)
    if has_input(node, 2):
        mixed = binary(evaluation, mixed, operand(evaluation, node, 2, depth), evaluation.algebra.add)
    return Fact(mixed.poly, (mixed.dims[0], mixed.dims[-1], *mixed.dims[1:-1]))


TABLE: dict[str, TransferFunction] = {"MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum, "Conv": _conv}

CONTRIB_TABLE: dict[str, TransferFunction] = {"FusedMatMul": _fused_matmul}
"""Of the com.microsoft domain."""
