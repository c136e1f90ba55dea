"""Operators that only move or repeat elements: they change the layout, never the expression."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.layout import Bind, Dim, Dims, dim_size, free_dim, regroup, resolve_target
from gn_onnx.recognition.polynomials import NotExpressible, renamed
from gn_onnx.recognition.sizes import ONE, Size, product
from gn_onnx.recognition.transfer.common import TransferFunction, axes, int_attribute, ints_attribute, operand, target_shape


def reshaped(fact: Fact, target: list[Size]) -> Fact:
    dims, renaming = regroup(fact.dims, target)
    return Fact(renamed(fact.poly, renaming), dims)


def _reshape(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    fact = operand(evaluation, node, 0, depth)
    old = ints_attribute(evaluation, node, "shape")  # opset 1 to 4
    target = target_shape(evaluation, node) if old is None else [Size.of(v) for v in old]
    allow_zero = bool(int_attribute(evaluation, node, "allowzero", 0))
    sizes = resolve_target(fact.dims, target, allow_zero=allow_zero)
    _bind_by_count(evaluation, fact.dims, sizes)
    return reshaped(fact, sizes)


def _bind_by_count(evaluation: Evaluation, dims: Dims, target: list[Size]) -> None:
    """A Reshape keeps the number of elements, or fails: that tells a size of x that inference gave a name of its own.

    Raises:
        Bind: When it does.
    """
    quotient = product(dim_size(dim) for dim in dims) / product(target)
    own = {name for atom in evaluation.algebra.x_atoms for name, _ in atom.size.symbols}
    unknown = [(name, exponent) for name, exponent in quotient.symbols if name in own]
    if len(unknown) != 1 or abs(unknown[0][1]) != 1:
        return
    ((name, exponent),) = unknown
    rest = quotient / Size(1, ((name, exponent),))
    size = ONE / rest if exponent == 1 else rest
    if size.is_whole and not size.is_fraction:
        raise Bind(name, size)


def _flatten(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    fact = operand(evaluation, node, 0, depth)
    axis = int_attribute(evaluation, node, "axis", 1)
    axis = axis + len(fact.dims) if axis < 0 else axis
    return Fact(fact.poly, (_merged(fact.dims[:axis]), _merged(fact.dims[axis:])))


def _merged(dims: Dims) -> Dim:
    return tuple(atom for dim in dims for atom in dim)


def _transpose(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    fact = operand(evaluation, node, 0, depth)
    rank = len(fact.dims)
    perm = ints_attribute(evaluation, node, "perm") or list(range(rank))[::-1]
    if sorted(perm) != list(range(rank)):
        raise NotExpressible("a permutation of another rank")
    return Fact(fact.poly, tuple(fact.dims[i] for i in perm))


def _unsqueeze(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    fact = operand(evaluation, node, 0, depth)
    # The axes count in the output's rank, which their own number decides.
    given = ints_attribute(evaluation, node, "axes")
    count = len(target_shape(evaluation, node) if given is None else given)
    new = axes(evaluation, node, len(fact.dims) + count) or []
    dims = list(fact.dims)
    for axis in sorted(new):
        dims.insert(axis, ())
    return Fact(fact.poly, tuple(dims))


def _squeeze(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    fact = operand(evaluation, node, 0, depth)
    gone = axes(evaluation, node, len(fact.dims))
    if not gone:  # (an empty list of axes is none for ONNX Runtime)
        if any(dim and dim_size(dim).static is None for dim in fact.dims):
            raise NotExpressible("a Squeeze of whatever happens to have size 1")
        gone = [i for i, dim in enumerate(fact.dims) if not dim]
    if any(not dim_size(fact.dims[i]).is_one for i in gone):
        raise NotExpressible("a Squeeze of a dimension that is not known to have size 1")
    dims = [dim for i, dim in enumerate(fact.dims) if i not in gone]
    marks = tuple(atom for i in gone for atom in fact.dims[i])
    if marks and dims:
        dims[-1] = marks + dims[-1]  # a slice mark has to stay somewhere
    elif marks:
        raise NotExpressible("a Squeeze of the last dimension of a slice")
    return Fact(fact.poly, tuple(dims))


def _expand(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    fact = operand(evaluation, node, 0, depth)
    target = target_shape(evaluation, node)
    dims = ((),) * (len(target) - len(fact.dims)) + fact.dims
    target = [ONE] * (len(dims) - len(target)) + target
    out: list[Dim] = []
    for dim, size in zip(dims, target, strict=True):
        if not dim:
            out.append(free_dim(size))
        elif size.is_one or size == dim_size(dim):
            out.append(dim)
        else:
            raise NotExpressible(f"a dimension of size {dim_size(dim)} is expanded to {size}")
    return Fact(fact.poly, tuple(out))


def _pad(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """Pad by nothing: TorchScript writes one before every pooling in opset 9."""
    pads = ints_attribute(evaluation, node, "pads")
    if pads is None:
        given = evaluation.integers(node.inputs[1]) if len(node.inputs) > 1 else None
        pads = [1] if given is None else [0 if size.is_zero else 1 for size in given.ravel()]
    if any(pads):
        raise NotExpressible("a Pad")
    return operand(evaluation, node, 0, depth)


def _tile(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    fact = operand(evaluation, node, 0, depth)
    repeats = target_shape(evaluation, node)
    if len(repeats) != len(fact.dims):
        raise NotExpressible("Tile with repeats of another rank")
    # Tile repeats the whole dimension: the repetition is the slower part.
    return Fact(fact.poly, tuple(free_dim(count) + dim for dim, count in zip(fact.dims, repeats, strict=True)))


def gather(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """Gather with constant indices that keep the order of an axis, or repeat each element or the whole evenly."""
    fact = operand(evaluation, node, 0, depth)
    axis = int_attribute(evaluation, node, "axis", 0) % max(len(fact.dims), 1)
    indices = None if node.inputs[1] is None else evaluation.view.folded(node.inputs[1])
    if indices is not None and node.op_type == "GatherND":
        if indices.ndim != 2 or indices.shape[1] != 1 or int_attribute(evaluation, node, "batch_dims", 0):
            raise NotExpressible("a GatherND along more than the first axis")
        indices = indices.ravel()
    size = dim_size(fact.dims[axis]).static if fact.dims else None
    if indices is None or not size or not indices.size or indices.size % size:
        raise NotExpressible("a Gather that does not repeat an axis evenly")
    flat = np.where(indices < 0, indices + size, indices).ravel()
    repeat = free_dim(Size.of(flat.size // size))
    if np.array_equal(flat, np.repeat(np.arange(size), flat.size // size)):
        new = fact.dims[axis] + repeat
    elif np.array_equal(flat, np.tile(np.arange(size), flat.size // size)):
        new = repeat + fact.dims[axis]
    else:
        raise NotExpressible("a Gather that reorders an axis")
    gathered = Fact(fact.poly, (*fact.dims[:axis], new, *fact.dims[axis + 1 :]))
    if indices.ndim == 1:
        return gathered
    sizes = [dim_size(dim) for dim in fact.dims]
    return reshaped(gathered, [*sizes[:axis], *(Size.of(n) for n in indices.shape), *sizes[axis + 1 :]])


def _resize(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    """Nearest neighbours, enlarged by whole numbers: every element is repeated."""
    fact = operand(evaluation, node, 0, depth)
    mode = _text(evaluation, node, "mode", "nearest")
    rounding = _text(evaluation, node, "nearest_mode", "round_prefer_floor")
    coordinates = _text(evaluation, node, "coordinate_transformation_mode", "half_pixel")
    if evaluation.view.opset_version(node) < 11:
        coordinates, rounding = "asymmetric", "floor"
    repeats = (coordinates, rounding) == ("asymmetric", "floor") or (
        coordinates in ("half_pixel", "pytorch_half_pixel") and rounding in ("round_prefer_floor", "round_prefer_ceil")
    )
    factors = _scales(evaluation, node, fact.dims)
    if mode != "nearest" or not repeats or evaluation.attribute(node, "axes") is not None or len(factors) != len(fact.dims):
        raise NotExpressible("a Resize that does more than repeat every element")
    return Fact(fact.poly, tuple(dim + free_dim(Size.of(n)) for dim, n in zip(fact.dims, factors, strict=True)))


def _scales(evaluation: Evaluation, node: ir.Node, dims: Dims) -> list[int]:
    """The whole number of copies along every axis, from the scales or the sizes."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        sizes = evaluation.integers(node.inputs[3])
        if sizes is None or sizes.size != len(dims):
            raise NotExpressible("a Resize to sizes that are only known at run time")
        found = [(target / dim_size(dim)).static for target, dim in zip(sizes.ravel(), dims, strict=True)]
    else:
        last = node.inputs[-1] if evaluation.view.opset_version(node) < 11 else node.inputs[2]
        array = None if last is None else evaluation.view.folded(last)
        if array is None or not np.array_equal(array, np.floor(array)):
            raise NotExpressible("a Resize by factors that are no constant whole numbers")
        found = [int(n) for n in array.ravel()]
    if any(n is None or n < 1 for n in found):
        raise NotExpressible("a Resize by factors that are no whole numbers")
    return [n for n in found if n is not None]


def _text(evaluation: Evaluation, node: ir.Node, name: str, default: str) -> str:
    attribute = evaluation.attribute(node, name)
    return default if attribute is None else attribute.as_string()


def _constant_of_shape(evaluation: Evaluation, node: ir.Node, depth: int) -> Fact:
    shape = None if node.inputs[0] is None else evaluation.integers(node.inputs[0])
    if shape is None:
        raise NotExpressible("a constant of a shape that is only known at run time")
    value = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1)
    return Fact(evaluation.constant_fact(value.reshape(())).poly, tuple(free_dim(size) for size in shape.ravel()))


TABLE: dict[str, TransferFunction] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Expand": _expand,
    "Pad": _pad,
    "Tile": _tile,
    "GatherND": gather,
    "Resize": _resize,
    "Upsample": _resize,
    "ConstantOfShape": _constant_of_shape,
}
