"""Operators that normalise in one node."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.layout import Dims, dim_size
from gn_onnx.recognition.polynomials import NotExpressible, constant
from gn_onnx.recognition.sizes import Size
from gn_onnx.recognition.transfer.common import TransferFunction, float_attribute, has_input, int_attribute, operand
from gn_onnx.recognition.transfer.elementwise import binary
from gn_onnx.recognition.transfer.moving import reshaped
from gn_onnx.recognition.transfer.reductions import mean_over


def standardised(evaluation: Evaluation, fact: Fact, reduced: Sequence[int], epsilon: float) -> tuple[Fact, Fact, Fact]:
    """(v - E[v]) / sqrt(E[(v - E[v])^2] + epsilon) over whole dimensions; also E[v] and the reciprocal root."""
    if not epsilon >= 0:
        raise NotExpressible(f"epsilon is {epsilon:g}, which is negative" if epsilon < 0 else f"epsilon is {epsilon:g}")
    algebra = evaluation.algebra
    mean = mean_over(evaluation, fact, reduced)
    centred = binary(evaluation, fact, mean, lambda p, q: algebra.add(p, q, -1.0))
    variance = mean_over(evaluation, Fact(algebra.multiply(centred.poly, centred.poly), centred.dims), reduced)
    rstd = Fact(algebra.inverse(algebra.sqrt(algebra.add(variance.poly, constant(epsilon)))), variance.dims)
    return binary(evaluation, centred, rstd, algebra.multiply), mean, rstd


def _affine(evaluation: Evaluation, fact: Fact, scale: Fact | None, bias: Fact | None) -> Fact:
    if scale is not None:
        fact = binary(evaluation, fact, scale, evaluation.algebra.multiply)
    return fact if bias is None else binary(evaluation, fact, bias, evaluation.algebra.add)


def _without_uniform(fact: Fact) -> Fact:
    return Fact({monomial: coefficient.varying() for monomial, coefficient in fact.poly.items()}, fact.dims)


def _along(fact: Fact, axis: int, rank: int) -> Fact:
    """A vector that lies along one axis of a tensor of the given rank."""
    if len(fact.dims) != 1:
        raise NotExpressible("a scale or bias that is not a vector")
    dims: Dims = ((),) * axis + fact.dims + ((),) * (rank - axis - 1)
    return Fact(fact.poly, dims)


def _vector(evaluation: Evaluation, node: ir.Node, index: int, depth: int, axis: int, rank: int) -> Fact | None:
    """A parameter that the operator wants even where there is no affine: all ones are no sign of one of the author's."""
    return _without_uniform(_along(operand(evaluation, node, index, depth), axis, rank)) if has_input(node, index) else None


def _instance(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    fact = operand(evaluation, node, 0, depth)
    rank = len(fact.dims)
    normal, _, _ = standardised(evaluation, fact, range(2, rank), float_attribute(evaluation, node, "epsilon", 1e-5))
    return _affine(evaluation, normal, *(_vector(evaluation, node, i, depth, 1, rank) for i in (1, 2)))


def _layer(evaluation: Evaluation, node: ir.Node, depth: int) -> dict[ir.Value, Fact]:
    fact = operand(evaluation, node, 0, depth)
    rank = len(fact.dims)
    reduced = range(int_attribute(evaluation, node, "axis", -1) % rank, rank)
    normal, mean, rstd = standardised(evaluation, fact, reduced, float_attribute(evaluation, node, "epsilon", 1e-5))
    scale = _without_uniform(operand(evaluation, node, 1, depth))
    bias = operand(evaluation, node, 2, depth) if has_input(node, 2) else None
    facts = (_affine(evaluation, normal, scale, bias), mean, rstd)
    return dict(zip(node.outputs, facts, strict=False))


def _batch(evaluation: Evaluation, node: ir.Node, depth: int) -> dict[ir.Value, Fact]:
    fact = operand(evaluation, node, 0, depth)
    rank = len(fact.dims)
    if rank < 2:
        raise NotExpressible("BatchNormalization without a channel axis")
    if int_attribute(evaluation, node, "spatial", 1) != 1:
        raise NotExpressible("BatchNormalization with statistics per position")
    scale, bias, mean, variance = (_vector(evaluation, node, i, depth, 1, rank) for i in range(1, 5))
    epsilon = float_attribute(evaluation, node, "epsilon", 1e-5)
    algebra = evaluation.algebra
    if _trains(evaluation, node):
        normal, _, _ = standardised(evaluation, fact, [i for i in range(rank) if i != 1], epsilon)
    else:
        if mean is None or variance is None:
            raise NotExpressible("BatchNormalization without statistics")
        rstd = Fact(algebra.inverse(algebra.sqrt(algebra.add(variance.poly, constant(epsilon)))), variance.dims)
        centred = binary(evaluation, fact, mean, lambda p, q: algebra.add(p, q, -1.0))
        normal = binary(evaluation, centred, rstd, algebra.multiply)
    return {node.outputs[0]: _affine(evaluation, normal, scale, bias)}


def _trains(evaluation: Evaluation, node: ir.Node) -> bool:
    """Whether the statistics are the batch's own: by attribute since opset 14, by the number of outputs before 7."""
    version = evaluation.view.opset_version(node)
    if version >= 14:
        return bool(int_attribute(evaluation, node, "training_mode", 0))
    if version < 7:
        return not int_attribute(evaluation, node, "is_test", 0)
    return len(node.outputs) > 1 and any(value.uses() for value in node.outputs[1:])


def _group(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """ai.onnx GroupNormalization: scale per group in opset 18, per channel since 21."""
    per_group = evaluation.view.opset_version(node) < 21
    fact = operand(evaluation, node, 0, depth)
    return _grouped(evaluation, node, depth, fact, 1, int_attribute(evaluation, node, "num_groups", 0), per_group=per_group)


def _grouped(
    evaluation: Evaluation, node: ir.Node, depth: int, fact: Fact, axis: int, num_groups: int, *, per_group: bool
) -> Fact:
    rank = len(fact.dims)
    if num_groups < 1 or rank < 2:
        raise NotExpressible("a GroupNormalization with impossible attributes")
    shape = [dim_size(dim) for dim in fact.dims]
    groups = Size.of(num_groups)
    split = reshaped(fact, [*shape[:axis], groups, shape[axis] / groups, *shape[axis + 1 :]])
    reduced = [axis + 1, *(i for i in range(1, rank + 1) if i not in (axis, axis + 1))]
    normal, _, _ = standardised(evaluation, split, reduced, float_attribute(evaluation, node, "epsilon", 1e-5))
    if per_group:
        normal = _affine(evaluation, normal, *(_vector(evaluation, node, i, depth, axis, rank + 1) for i in (1, 2)))
    merged = reshaped(normal, shape)
    if per_group:
        return merged
    return _affine(evaluation, merged, *(_vector(evaluation, node, i, depth, axis, rank) for i in (1, 2)))


def _contrib_group(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """com.microsoft GroupNorm: channels last unless told otherwise."""
    if int_attribute(evaluation, node, "activation", 0):
        raise NotExpressible("a GroupNorm with an activation inside")  # where rewriting/contrib.py could not split it
    fact = operand(evaluation, node, 0, depth)
    axis = len(fact.dims) - 1 if int_attribute(evaluation, node, "channels_last", 1) else 1
    return _grouped(evaluation, node, depth, fact, axis, int_attribute(evaluation, node, "groups", 0), per_group=False)


def _skip_group(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    # rewriting/contrib.py splits it, unless it does not know which dimensions of the second tensor are which.
    raise NotExpressible("a SkipGroupNorm of which the shapes are not known: run shape inference on the model first")


def _mean_variance(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    raise NotExpressible("MeanVarianceNormalization adds its epsilon to the standard deviation, outside the root")


def _rms(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    raise NotExpressible("an RMS normalisation does not subtract the mean")


TABLE: dict[str, TransferFunction] = {
    "InstanceNormalization": _instance,
    "LayerNormalization": _layer,
    "BatchNormalization": _batch,
    "GroupNormalization": _group,
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _rms,
}

CONTRIB_TABLE: dict[str, TransferFunction] = {"GroupNorm": _contrib_group, "SkipGroupNorm": _skip_group}
