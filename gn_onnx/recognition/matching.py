"""The one question that is asked of every fact: is this value a GroupNorm of x?

It is when its layout is x's own and its expression is `scale*x/root - scale*E[x]/root + bias` with
`root^2 = E[x^2] - E[x]^2 + epsilon`, the mean over all of a sample but the groups of its channels, and scale and bias
that vary along the channels only. Every other answer names what is different.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from gn_onnx.group_norm import PerChannel
from gn_onnx.recognition.algebra import Algebra
from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.layout import Atom, Dims, dim_size, permutation
from gn_onnx.recognition.model_view import STANDARD_DOMAINS
from gn_onnx.recognition.polynomials import THE_X, Log, Moment, Monomial, Poly, Root, Symbol, Tensor, constant
from gn_onnx.recognition.sizes import Size, product
from gn_onnx.recognition.variance import Mismatch, variance_of
from gn_onnx.recognition.wording import epsilon_outside


@dataclasses.dataclass(frozen=True)
class Match:
    """y = scale * (x - mean) * rstd + bias, with num_groups groups along `channel_axis`."""

    channel_axis: int
    num_groups: int
    epsilon: float
    scale: PerChannel
    bias: PerChannel
    num_channels: int | None
    has_affine: bool
    one_sample: bool
    """x has no batch axis; `channel_axis` counts as if it had."""
    x_was_multiplied: bool
    """The variance is that of a multiple of x, which would be the x that the author means, if it can be taken for x."""


def match(evaluation: Evaluation, fact: Fact) -> Match:
    """The GroupNorm that `fact` is. Raises Mismatch."""
    algebra = evaluation.algebra
    parts = _split(algebra, fact.poly)
    if _flat(fact.dims) != _flat(evaluation.dims) and permutation(evaluation.dims, fact.dims) is None:
        raise Mismatch("the normalised value is not brought back to the input's own layout")
    variance = variance_of(evaluation, parts.root)
    group = variance.atoms
    if not group <= evaluation.algebra.x_atoms:
        raise Mismatch("the statistics are those of one slice")
    if group != parts.mean_atoms:
        raise Mismatch("the mean is taken over other axes than the variance")
    scale_atoms = _lies_along(parts.scale) | _lies_along(parts.bias)
    dims = fact.dims
    one_sample = any(atom in group for atom in dims[:1] and dims[0]) and _is_one_sample(evaluation.root)
    if one_sample:
        dims = ((), *dims)
    axis, groups = _channel_axis(dims, group, scale_atoms)
    channel = dims[axis]
    if one_sample and groups in (1, dim_size(channel).static):
        raise Mismatch("the statistics run over the first axis, as over a batch")
    for what, poly in (("scale", parts.scale), ("bias", parts.bias)):
        _check_along_channels(dims, what, poly, axis)
    size = dim_size(channel)
    return Match(
        channel_axis=axis,
        num_groups=groups,
        epsilon=variance.epsilon,
        scale=_per_channel(algebra, algebra.multiply(parts.scale, constant(1.0 / variance.factor)), channel, size, "scale"),
        bias=_per_channel(algebra, parts.bias, channel, size, "bias"),
        num_channels=size.static,
        has_affine=any(atom in channel for atom in scale_atoms),
        one_sample=one_sample,
        x_was_multiplied=variance.factor != 1.0,
    )


def _is_one_sample(value: ir.Value) -> bool:
    """Whether a value was taken out of a batch by its number, so that its first axis is no batch."""
    node = value.producer()
    if node is None or node.op_type != "Gather" or node.domain not in STANDARD_DOMAINS:
        return False
    axis, index = node.attributes.get("axis"), node.inputs[1]
    along = 0 if axis is None else axis.as_int()
    return along == 0 and index is not None and index.shape is not None and len(index.shape) == 0


@dataclasses.dataclass(frozen=True)
class _Parts:
    root: int
    mean_atoms: frozenset[Atom]
    scale: Poly
    bias: Poly


def _split(algebra: Algebra, poly: Poly) -> _Parts:
    """scale, bias and the statistics that the terms of `poly` use."""
    linear: dict[int, Poly] = {}
    shift: dict[tuple[int, frozenset[Atom]], Poly] = {}
    bias: Poly = {}
    for monomial, coefficient in poly.items():
        exponents = dict(monomial)
        x_power = exponents.pop(THE_X, 0)
        roots = {f: e for f, e in exponents.items() if isinstance(f, Root)}
        moments = {f: e for f, e in exponents.items() if isinstance(f, Moment)}
        if any(isinstance(f, Log) for f in exponents):
            raise Mismatch("a logarithm of the variance is added or multiplied")
        rest: Monomial = frozenset((f, e) for f, e in exponents.items() if isinstance(f, Tensor | Symbol))
        if not x_power and not roots and not moments:
            bias[monomial] = coefficient
            continue
        if x_power not in (0, 1):
            raise Mismatch(f"the normalised value is multiplied with x once more (x to the power {x_power})")
        if len(roots) != 1:
            raise Mismatch("x is not divided by its standard deviation" if not roots else "two different roots are mixed")
        ((root, power),) = roots.items()
        if power == -2:
            raise Mismatch(_other_denominator(algebra, algebra.roots[root.index]), at=algebra.roots[root.index])
        if power != -1:
            raise Mismatch("the standard deviation does not divide")
        if x_power == 1 and not moments:
            linear.setdefault(root.index, {})[rest] = coefficient
        elif x_power == 0 and len(moments) == 1 and next(iter(moments.items()))[1] == 1:
            (moment,) = moments
            if moment.power != 1:
                raise Mismatch("E[x^2] is subtracted where the mean belongs")
            shift.setdefault((root.index, moment.atoms), {})[rest] = coefficient
        else:
            raise Mismatch("a constant or another tensor is divided by the standard deviation along with x")
    if len(linear) != 1:
        raise Mismatch("x is not normalised" if not linear else "two normalisations of x are added")
    ((index, scale),) = linear.items()
    if not shift:
        raise Mismatch("the mean is not subtracted: an RMS normalisation", uncentred=True)
    if len(shift) != 1 or next(iter(shift))[0] != index:
        raise Mismatch("several different means are subtracted")
    (((_, atoms), shifted),) = shift.items()
    if algebra.add(scale, shifted):
        raise Mismatch(_other_mean(scale, shifted))
    return _Parts(index, atoms, scale, bias)


def _other_denominator(algebra: Algebra, root: Poly) -> str:
    epsilon = epsilon_outside(root, algebra.roots)
    if epsilon is None:
        return "x is divided by the variance: its square root is missing"
    return f"{epsilon:g} is added to the standard deviation, outside of the root: write sqrt(var + epsilon)"


def _other_mean(scale: Poly, shifted: Poly) -> str:
    if scale.keys() == shifted.keys() and len(scale) == 1 and not any(c.atoms for c in (*scale.values(), *shifted.values())):
        ratio = -float(next(iter(shifted.values())).array) / float(next(iter(scale.values())).array)
        return "the mean is added" if ratio == -1 else f"{ratio:.6g} times the mean is subtracted, not the mean"
    return "x and its mean are scaled differently: not just the mean is subtracted"


def _flat(dims: Dims) -> list[Atom]:
    return [atom for dim in dims for atom in dim]


def _channel_axis(dims: Dims, group: frozenset[Atom], scale_atoms: frozenset[Atom]) -> tuple[int, int]:
    """The axis that holds the channels, and the number of groups. Raises Mismatch."""
    rank = len(dims)
    if rank < 2:
        raise Mismatch("a tensor of rank below 2 has no channel axis")
    if any(atom in group for atom in dims[0]):
        raise Mismatch("the statistics run over the batch")
    partial = [i for i in range(1, rank) if _some(dims[i], group) and not _all(dims[i], group)]
    kept = [i for i in range(1, rank) if dims[i] and not _some(dims[i], group)]
    if len(partial) > 1:
        raise Mismatch("groups are formed along several axes")
    if (partial and kept) or len(kept) > 1:
        alone = ("axis " if len(kept) == 1 else "axes ") + " and ".join(str(i) for i in kept)
        raise Mismatch(
            f"each position along {alone} has its own statistics, as in LayerNorm: a GroupNorm's run over all positions"
        )
    if partial or kept:
        axis = (partial or kept)[0]
    else:
        varying = [i for i in range(1, rank) if any(atom in scale_atoms for atom in dims[i])]
        if len(varying) > 1:
            raise Mismatch("the scale varies along several axes, as in LayerNorm", elsewhere=True)
        axis = varying[0] if varying else 1
    if axis not in (1, rank - 1):
        raise Mismatch(f"the groups are parts of axis {axis}, which is neither the second nor the last: channels lie there")
    outer = [atom not in group for atom in dims[axis]]
    if outer != sorted(outer, reverse=True):
        raise Mismatch("the groups are interleaved: the channels of a group are not neighbours")
    groups = product(atom.size for atom in dims[axis] if atom not in group).static
    if groups is None and not partial:
        raise Mismatch(f"each position along axis {axis} has its own statistics, as in LayerNorm; their number is not known")
    if groups is None:
        raise Mismatch("the number of groups is only known at run time")
    return axis, groups


def _some(dim: tuple[Atom, ...], group: frozenset[Atom]) -> bool:
    return any(atom in group for atom in dim)


def _all(dim: tuple[Atom, ...], group: frozenset[Atom]) -> bool:
    return all(atom in group for atom in dim)


def _lies_along(poly: Poly) -> frozenset[Atom]:
    """The atoms that parameters have a dimension for, whether or not their elements differ."""
    out: set[Atom] = set()
    for monomial, coefficient in poly.items():
        out.update(coefficient.atoms)
        out.update(atom for f, _ in monomial if isinstance(f, Tensor) for atom in f.atoms)
    return frozenset(out)


def _check_along_channels(dims: Dims, what: str, poly: Poly, axis: int) -> None:
    axis_of = {atom: i for i, dim in enumerate(dims) for atom in dim}
    for monomial, coefficient in poly.items():
        tensors = [f for f, _ in monomial if isinstance(f, Tensor)]
        atoms = set(coefficient.varying().atoms).union(*(f.atoms for f in tensors))
        elsewhere = sorted({axis_of.get(atom, -1) for atom in atoms} - {axis})
        laid_out = {axis_of.get(atom, -1) for atom in coefficient.atoms} - {axis, 0}
        if not elsewhere and laid_out and what == "scale" and not coefficient.varying().atoms:
            # All ones, but with a dimension of its own along another axis: somebody's LayerNorm.
            elsewhere = sorted(laid_out)
        if not elsewhere:
            continue
        per_sample = any(axis_of.get(atom) == 0 for f in tensors for atom in f.atoms)
        raise Mismatch(
            f"the {what} differs from sample to sample"
            if elsewhere == [0]
            else f"the {what} varies along axis {elsewhere[-1]}, the groups lie along axis {axis}",
            elsewhere=what == "scale" and elsewhere != [0] and not per_sample,
        )


def _per_channel(algebra: Algebra, poly: Poly, channel: tuple[Atom, ...], size: Size, what: str) -> PerChannel:
    terms = []
    for monomial, coefficient in poly.items():
        values: list[ir.Value] = []
        for factor, exponent in monomial:
            if not isinstance(factor, Tensor) or not isinstance(factor.key, ir.Value):
                raise Mismatch(f"the {what} depends on a size that is only known at run time")
            if exponent not in (1, 2):
                raise Mismatch(f"the {what} is divided by another tensor")
            if factor.atoms not in ((), channel):
                raise Mismatch(f"the {what} is a tensor that does not lie along the channels as a whole")
            values.extend([factor.key] * int(exponent))
        coefficient = coefficient.varying()
        array = coefficient.aligned(channel)
        if coefficient.atoms:
            static = size.static
            if static is None:
                raise Mismatch("the number of channels is only known at run time, the scale's is not")
            full = [atom.size.static or 1 for atom in channel]
            array = np.broadcast_to(array, full).reshape(static)
        else:
            array = array.reshape(())
        terms.append((array, tuple(sorted(values, key=lambda v: v.name or ""))))
    terms.sort(key=lambda term: [v.name or "" for v in term[1]])
    return PerChannel(tuple(terms))
