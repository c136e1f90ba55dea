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
from gn_onnx.recognition.layout import Atom, Dims, dim_size
from gn_onnx.recognition.polynomials import THE_X, UNIT, Coefficient, Moment, Monomial, Poly, Root, Symbol, Tensor
from gn_onnx.recognition.sizes import Size, product

_FLOAT32 = np.finfo(np.float32)


class Mismatch(Exception):  # noqa: N818 - an answer, not an error
    """The value is not a GroupNorm of x; the message says why.

    Attributes:
        elsewhere: The scale lies along axes that are not x's channels: what looks like the core is another
            normalisation (LayerNorm, or groups of rows), not a GroupNorm with something behind it.
    """

    def __init__(self, reason: str, *, elsewhere: bool = False) -> None:
        super().__init__(reason)
        self.elsewhere = elsewhere


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


def match(evaluation: Evaluation, fact: Fact) -> Match:
    """The GroupNorm that `fact` is. Raises Mismatch."""
    algebra = evaluation.algebra
    parts = _split(algebra, fact.poly)
    if _flat(fact.dims) != _flat(evaluation.dims):
        raise Mismatch("the normalised value is not brought back to the input's own layout")
    group, epsilon = _statistics(evaluation, parts.root)
    if not group <= evaluation.algebra.x_atoms:
        raise Mismatch("the statistics are those of one slice")
    if group != parts.mean_atoms:
        raise Mismatch("the mean is taken over other axes than the variance")
    scale_atoms = _lies_along(parts.scale) | _lies_along(parts.bias)
    axis, groups = _channel_axis(fact.dims, group, scale_atoms)
    channel = fact.dims[axis]
    for what, poly in (("scale", parts.scale), ("bias", parts.bias)):
        _check_along_channels(fact.dims, what, poly, axis)
    size = dim_size(channel)
    return Match(
        channel_axis=axis,
        num_groups=groups,
        epsilon=epsilon,
        scale=_per_channel(algebra, parts.scale, channel, size, "scale"),
        bias=_per_channel(algebra, parts.bias, channel, size, "bias"),
        num_channels=size.static,
        has_affine=any(atom in channel for atom in scale_atoms),
    )


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
        rest: Monomial = frozenset((f, e) for f, e in exponents.items() if isinstance(f, Tensor | Symbol))
        if not x_power and not roots and not moments:
            bias[monomial] = coefficient
            continue
        if x_power not in (0, 1):
            raise Mismatch(f"x occurs to the power {x_power}")
        if len(roots) != 1:
            raise Mismatch("x is not divided by its standard deviation" if not roots else "two different roots are mixed")
        ((root, power),) = roots.items()
        if power == -2:
            raise Mismatch("x is divided by the variance (or by root plus a constant), not by its square root")
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
        raise Mismatch("the mean is not subtracted: an RMS normalisation")
    if len(shift) != 1 or next(iter(shift))[0] != index:
        raise Mismatch("several different means are subtracted")
    (((_, atoms), shifted),) = shift.items()
    if algebra.add(scale, shifted):
        raise Mismatch("x and its mean are scaled differently")
    return _Parts(index, atoms, scale, bias)


def _statistics(evaluation: Evaluation, index: int) -> tuple[frozenset[Atom], float]:
    """The atoms of a group and epsilon. Raises Mismatch where the root is not of the biased variance."""
    algebra = evaluation.algebra
    poly = dict(algebra.roots[index])
    epsilon = poly.pop(UNIT, Coefficient(np.zeros(())))
    squares = {m: moment for m in poly if (moment := _mean_of_squares(m)) is not None}
    if len(squares) != 1:
        raise Mismatch(f"the root is of {algebra.show(algebra.roots[index])}, not of a variance")
    ((square, moment),) = squares.items()
    atoms = moment.atoms
    mean_square: Monomial = frozenset({(Moment(1, atoms), 2)})
    if set(poly) != {square, mean_square}:
        if set(poly) == {square}:
            raise Mismatch("the mean is not subtracted in the variance: an RMS or filter response normalisation")
        if any(isinstance(f, Tensor) for m in poly for f, _ in m):
            raise Mismatch("the variance involves another tensor")
        raise Mismatch("mean and variance are taken over different axes")
    second, first = poly[square], poly[mean_square]
    if (second + first).magnitude() > algebra.tolerance * second.magnitude():
        raise Mismatch(f"the root is of {algebra.show(algebra.roots[index])}, not of a variance")
    count = product(atom.size for atom in atoms)
    weight = second.scalar()
    if weight is None:
        raise Mismatch("the variance is weighted differently per channel or group")
    if abs(weight - 1.0) > algebra.tolerance:
        raise Mismatch(_other_divisor(weight, count))
    value = epsilon.scalar()
    if value is None:
        raise Mismatch("epsilon differs from channel to channel or group to group")
    if value < 0:
        raise Mismatch(f"epsilon is negative ({value:g})")
    if not np.isfinite(value):
        raise Mismatch(f"epsilon is {value:g}")
    if value and not float(_FLOAT32.tiny) <= value <= float(_FLOAT32.max):
        raise Mismatch(f"epsilon is {value:g}, which an attribute of a node (float32) cannot say")
    return atoms, value


def _mean_of_squares(monomial: Monomial) -> Moment | None:
    """The moment, where the monomial is E[x^2] and nothing else."""
    if len(monomial) != 1:
        return None
    ((factor, exponent),) = monomial
    return factor if isinstance(factor, Moment) and factor.power == 2 and exponent == 1 else None


def _other_divisor(weight: float, count: Size) -> str:
    n = count.static
    if n is not None and n > 1 and abs(weight - n / (n - 1)) < 1e-3 * (n / (n - 1) - 1) + 1e-7:
        return "the variance is divided by n-1: export with unbiased=False (correction=0)"
    return f"the variance is weighted with {weight:.6g} before epsilon is added"


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
        raise Mismatch("the statistics run over a part of the spatial axes only")
    if partial or kept:
        axis = (partial or kept)[0]
    else:
        varying = [i for i in range(1, rank) if any(atom in scale_atoms for atom in dims[i])]
        if len(varying) > 1:
            raise Mismatch("the scale varies along several axes, as in LayerNorm", elsewhere=True)
        axis = varying[0] if varying else 1
    if axis not in (1, rank - 1):
        raise Mismatch(f"the channels lie along axis {axis}, neither the second nor the last")
    outer = [atom not in group for atom in dims[axis]]
    if outer != sorted(outer, reverse=True):
        raise Mismatch("the groups are interleaved: the channels of a group are not neighbours")
    groups = product(atom.size for atom in dims[axis] if atom not in group).static
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
            else f"the {what} varies along axis {elsewhere[-1]}, the channels lie along axis {axis}",
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
