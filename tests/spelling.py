"""How people and exporters spell a mean, a variance, a reciprocal root and a normalisation: one random choice each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from graph_builder import ONE, Dim, GraphBuilder, Tensor, product
from onnx import TensorProto


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of one tensor over some of its axes, dimensions kept."""

    mean: Tensor
    variance: Tensor


def _count(g: GraphBuilder, t: Tensor, axes: Sequence[int]) -> Tensor:
    """The number of elements reduced, as a floating-point tensor."""
    count = product([t.dims[i] for i in axes])
    if count.static is not None and g.sometimes(0.8):
        return g.number(count.factor)
    size = g.size(count)
    if g.sometimes(0.4):
        size = g.squeeze(Tensor(size, (ONE,)), [0]).name
    return Tensor(g.node("Cast", size, to=g.dtype), (ONE,))


def _divided(g: GraphBuilder, total: Tensor, t: Tensor, axes: Sequence[int]) -> Tensor:
    count = product([t.dims[i] for i in axes]).static
    if count is not None and g.dtype != TensorProto.FLOAT16 and g.sometimes(0.4):
        return g.commuted("Mul", total, g.number(1.0 / count))
    return g.op("Div", total, _count(g, t, axes))


def mean(g: GraphBuilder, t: Tensor, axes: Sequence[int]) -> Tensor:
    """E over `axes`, dimensions kept."""
    kinds = ["ReduceMean"] * 4 + ["ReduceSum"]
    if len(axes) > 1:
        kinds.append("stages")
    if t.rank > 2 and list(axes) == list(range(2, t.rank)):
        kinds.append("GlobalAveragePool")
    if len(axes) == 1 and t.dims[axes[0]].static is not None and g.dtype != TensorProto.FLOAT16:
        kinds.append("MatMul" if axes[0] == t.rank - 1 else "Einsum")
    kind = g.choose(*kinds)
    if kind == "MatMul":
        return _mean_by_matrix(g, t, t.dims[axes[0]].factor)
    if kind == "Einsum" and g.opset >= 12:
        return _divided(g, _sum_by_einsum(g, t, axes[0]), t, axes)
    if kind == "ReduceSum":
        return _divided(g, g.reduce("ReduceSum", t, axes), t, axes)
    if kind == "stages":
        order = list(axes)
        g.rng.shuffle(order)
        cut = g.rng.randrange(1, len(order))
        return mean(g, mean(g, t, sorted(order[:cut])), sorted(order[cut:]))
    if kind == "GlobalAveragePool":
        return g.op("GlobalAveragePool", t, dims=(*t.dims[:2], *(ONE,) * (t.rank - 2)))
    return g.reduce("ReduceMean", t, axes)


def _mean_by_matrix(g: GraphBuilder, t: Tensor, count: int) -> Tensor:
    """t @ [n, 1], of 1/n, or of 1 and divided afterwards."""
    divided = g.sometimes(0.5) or count & (count - 1)  # (rounded constants are read as they were meant, numbers only)
    column = np.full((count, 1), 1.0 if divided else 1.0 / count, _numpy_type(g))
    total = g.op("MatMul", t, Tensor(g.constant(column), (Dim(count), ONE)), dims=(*t.dims[:-1], ONE))
    return g.op("Div", total, g.number(float(count))) if divided else total


def _sum_by_einsum(g: GraphBuilder, t: Tensor, axis: int) -> Tensor:
    letters = "abcdefgh"[: t.rank]
    kept = letters.replace(letters[axis], "")
    dims = tuple(d for i, d in enumerate(t.dims) if i != axis)
    total = g.op("Einsum", t, dims=dims, equation=f"{letters}->{kept}")
    return g.unsqueeze(total, [axis])


def square(g: GraphBuilder, t: Tensor) -> Tensor:
    if g.sometimes(0.5):
        return g.op("Mul", t, t)
    if g.sometimes(0.1):
        return g.op("Pow", t, Tensor(g.constant(np.asarray(2, np.int64)), ())) if g.opset >= 12 else g.op("Mul", t, t)
    return g.op("Pow", t, g.number(2.0))


def _negative(g: GraphBuilder, t: Tensor) -> Tensor:
    return g.op("Neg", t) if g.sometimes(0.6) else g.commuted("Mul", t, g.number(-1.0))


def centred(g: GraphBuilder, t: Tensor, m: Tensor) -> Tensor:
    kind = g.rng.randrange(8)
    if kind == 0:
        return g.commuted("Add", t, _negative(g, m))
    if kind == 1:
        return _negative(g, g.op("Sub", m, t))
    return g.op("Sub", t, m)


def statistics(g: GraphBuilder, t: Tensor, axes: Sequence[int], d: Tensor | None = None) -> Statistics:
    """Mean and biased variance; `d` is the centred tensor where one exists."""
    m = mean(g, t, axes)
    kind = g.choose("centred", "centred", "squares", "sum of squares", "l2")
    if kind == "squares":
        second = mean(g, square(g, t), axes)
        return Statistics(m, _difference_of_squares(g, second, m))
    if kind == "sum of squares" and g.sometimes(0.5):
        second = _divided(g, g.reduce("ReduceSumSquare", t, axes), t, axes)
        return Statistics(m, _difference_of_squares(g, second, m))
    own = d or centred(g, t, m if g.sometimes(0.8) else mean(g, t, axes))
    if kind == "sum of squares":
        return Statistics(m, _divided(g, g.reduce("ReduceSumSquare", own, axes), t, axes))
    if kind == "l2":
        return Statistics(m, _divided(g, square(g, g.reduce("ReduceL2", own, axes)), t, axes))
    other = own if g.sometimes(0.9) else centred(g, t, mean(g, t, axes))
    squared = square(g, own) if other is own else g.op("Mul", own, other)
    return Statistics(m, mean(g, squared, axes))


def _difference_of_squares(g: GraphBuilder, second: Tensor, m: Tensor) -> Tensor:
    v = g.op("Sub", second, square(g, m))
    kind = g.choose("", "", "", "Max", "Relu", "Clip", "Abs")
    if kind == "Max":
        return g.commuted("Max", v, g.number(0.0))
    if kind == "Clip":
        if g.opset < 11:
            return Tensor(g.node("Clip", v.name, min=0.0), v.dims)
        return Tensor(g.node("Clip", v.name, g.constant(np.asarray(0, _numpy_type(g)))), v.dims)
    return g.op(kind, v) if kind else v


def _numpy_type(g: GraphBuilder) -> type:
    return {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}[g.dtype]


def plus_epsilon(g: GraphBuilder, v: Tensor, epsilon: float) -> Tensor:
    if g.sometimes(0.05):
        return g.op("Sub", v, g.number(-epsilon))
    return g.commuted("Add", v, g.number(epsilon))


def scaled_down(g: GraphBuilder, d: Tensor, v: Tensor) -> Tensor:
    """`d / sqrt(v)`."""
    if g.sometimes(0.4):
        return g.op("Div", d, _root(g, v))
    return g.commuted("Mul", d, reciprocal_root(g, v))


def _root(g: GraphBuilder, v: Tensor) -> Tensor:
    return g.op("Pow", v, g.number(0.5)) if g.sometimes(0.2) else g.op("Sqrt", v)


def reciprocal_root(g: GraphBuilder, v: Tensor) -> Tensor:
    kind = g.rng.randrange(6)
    if kind == 0:
        return g.op("Pow", v, g.number(-0.5))
    if kind == 1:
        return _root(g, _inverse(g, v))
    if kind == 2 and g.sometimes(0.5):
        logarithm = g.op("Log", v) if g.sometimes(0.7) else g.commuted("Mul", g.op("Log", _root(g, v)), g.number(2.0))
        return g.op("Exp", g.commuted("Mul", logarithm, g.number(-0.5)))
    return _inverse(g, _root(g, v))


def _inverse(g: GraphBuilder, v: Tensor) -> Tensor:
    kind = g.rng.randrange(5)
    if kind == 0:
        return g.op("Pow", v, g.number(-1.0))
    return g.op("Reciprocal", v) if kind < 3 else g.op("Div", g.number(1.0), v)


def normalised(g: GraphBuilder, t: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    """`(t - E[t]) / sqrt(Var[t] + epsilon)` over `axes` by arithmetic."""
    if g.sometimes(0.6):
        m = mean(g, t, axes)
        d = centred(g, t, m)
        v = plus_epsilon(g, statistics(g, t, axes, d if g.sometimes(0.8) else None).variance, epsilon)
        return scaled_down(g, d, v)
    s = statistics(g, t, axes)
    v = plus_epsilon(g, s.variance, epsilon)
    return applied(g, t, s.mean, reciprocal_root(g, v), None, None)


def applied(g: GraphBuilder, t: Tensor, m: Tensor, rstd: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """`(t - m) * rstd * scale + bias`, as a whole or folded into a slope and an offset."""
    kind = g.rng.randrange(3)
    if kind == 0:
        y = g.commuted("Mul", centred(g, t, m), rstd)
        return affine(g, y, scale, bias)
    slope = g.commuted("Mul", rstd, scale) if scale is not None else rstd
    shift = g.commuted("Mul", m, slope)
    if kind == 1:
        y = g.op("Sub", g.commuted("Mul", t, slope), shift)
        return affine(g, y, None, bias)
    offset = g.op("Sub", bias, shift) if bias is not None else _negative(g, shift)
    return g.commuted("Add", g.commuted("Mul", t, slope), offset)


def affine(g: GraphBuilder, y: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    if scale is not None:
        y = g.commuted("Mul", y, scale)
    return g.commuted("Add", y, bias) if bias is not None else y


def dims_of(sizes: Sequence[int]) -> tuple[Dim, ...]:
    return tuple(Dim(n) for n in sizes)
