"""Whether fusing keeps what a model computes: on three kinds of input and several sizes, in float64."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import onnx
from evaluate import Evaluator, Unsupported
from helpers import KINDS, TOLERANCE, difference, evaluator, meant, sample
from mutate import NEVER_ONE

from gn_onnx import fuse

FAILURES = (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError, OverflowError, MemoryError, Unsupported)
"""What a model that cannot run raises in the evaluator (ValueError covers NumPy's shape errors)."""

_MUTANT_TOLERANCE = 2e-4
"""A mutated graph may enlarge roundings, by the reciprocal of a result near zero or a term that is multiplied with 1e8
and cancels; a change of 1 % in epsilon at low variance, the smallest effect of a wrong rewrite, is 5e-3."""

_TYPE_NAMES = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}


def tolerance(model: onnx.ModelProto) -> float:
    kinds = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    kinds |= {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to"}
    return max(TOLERANCE[_TYPE_NAMES[kind]] for kind in kinds if kind in _TYPE_NAMES)


def shapes_of_x(model: onnx.ModelProto, drawn: tuple[int, ...], rng: random.Random) -> list[tuple[int, ...]]:
    """The drawn shape; for a dynamic model one more with the symbolic sizes changed, now and then to 1.

    Axes of one name have one size.
    """
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = [dim.dim_param for dim in dims]
    first = tuple(drawn[names.index(name)] if name else size for name, size in zip(names, drawn, strict=True))
    changed = {
        name: 1 if rng.random() < 0.25 and name != NEVER_ONE else first[axis] + rng.choice((0, 1, 2))
        for axis, name in enumerate(names)
        if name
    }
    other = tuple(changed.get(name, size) for name, size in zip(names, first, strict=True))
    return [first] if other == first else [first, other]


def is_valid(model: onnx.ModelProto) -> bool:
    """Whether onnx's own checks, type and shape inference included, let the model pass."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return False
    return True


def _rounds(graph: onnx.GraphProto) -> bool:
    """Whether anything is cast to 16 bits: constants that are cast there and back are folded as they come out."""
    return any(
        (node.op_type == "Cast" and attribute.name == "to" and attribute.i in (10, 16)) or _rounds(attribute.g)
        for node in graph.node
        for attribute in node.attribute
    )


def _sensitivity(model: onnx.ModelProto, feed: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> float:
    """How far the outputs move when parameters move by half a unit of the model's shortest type.

    Fusing rounds scale and bias to it where it multiplies them (epsilon always to float32); a mutant may divide by a
    result near zero.
    """
    worst = 0.0
    half_unit = 2.0**-11 if tolerance(model) > 1e-3 or _rounds(model.graph) else 2.0**-24
    for seed in range(3):
        noise = np.random.default_rng(seed)

        def perturbed(array: np.ndarray, noise: np.random.Generator = noise) -> np.ndarray:
            exact = meant(array)
            if array.dtype.kind in "iub" or (array.size == 1 and float(2 * exact.ravel()[0]).is_integer()):
                return exact
            return exact * (1 + half_unit * noise.choice((-1.0, 1.0), array.shape))

        try:
            moved = Evaluator(model, perturbed).run(feed)
        except FAILURES:
            continue  # a perturbed constant that sizes follow from, a Resize's scales say
        worst = max(worst, difference(moved, want))
    return worst if np.isfinite(worst) else 0.0


def gap(original: Evaluator, fused: Evaluator, feed: Mapping[str, np.ndarray], bound: float) -> float:
    """The difference of both graphs; where it is above `bound`, once more in long double.

    E[x^2] - E[x]^2 of a tensor whose mean is 1e6 times its deviation is noise in float64 too.
    """
    found = difference(fused.run(feed), original.run(feed))
    if found <= bound:
        return found
    longer = {**feed, "x": feed["x"].astype(np.longdouble)}
    return difference(fused.run(longer), original.run(longer))


def _ranked(rank: int) -> onnx.TensorShapeProto:
    """A shape of which only the rank is said."""
    return onnx.TensorShapeProto(dim=[onnx.TensorShapeProto.Dimension() for _ in range(rank)])


def broken_by_fusing(
    model: onnx.ModelProto, drawn: tuple[int, ...], epsilon: float, inputs: Mapping[str, np.ndarray], rng: random.Random
) -> tuple[str, int] | None:
    """("" or what is wrong, number of nodes put in); None where the model itself is not valid or cannot run."""
    try:
        original = evaluator(model)
        feeds = [
            {"x": sample(kind, shape, epsilon, i), **inputs}
            for i, shape in enumerate(shapes_of_x(model, drawn, rng))
            for kind in KINDS
        ]
        wanted = [original.run(feeds[0])]
    except FAILURES:
        return None
    for value in model.graph.output:
        value.type.tensor_type.shape.CopyFrom(_ranked(wanted[0][value.name].ndim))
    if not is_valid(model):
        return None
    result = fuse(model)
    if not result.fused:
        return "", 0
    bound = max(tolerance(model), _MUTANT_TOLERANCE)
    fused = evaluator(result.model)
    for i, feed in enumerate(feeds):
        try:
            want = wanted[0] if i == 0 else original.run(feed)
        except FAILURES:
            continue  # a size for which the original does not run
        try:
            found = gap(original, fused, feed, bound)
        except FAILURES as e:
            return f"the fused model fails for x of shape {feed['x'].shape}: {e!r}", len(result.fused)
        if not found <= bound and not found <= 10 * _sensitivity(model, feed, want):
            return f"{found:.2e} > {bound:.1e} for x of shape {feed['x'].shape}, {KINDS[i % 3]}", len(result.fused)
    return "", len(result.fused)
