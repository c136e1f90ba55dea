"""Shape arithmetic: integer tensors whose elements are sizes, known or symbolic.

Exporters compute the targets of Reshape, Expand and Tile from Shape by Gather, Slice, Concat, Mul and Div. Each such
tensor is a NumPy array of `Size` objects here; an element that cannot be followed gets a symbol of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Protocol

import numpy as np
import onnx_ir as ir

from gn_onnx.recognition.model_view import STANDARD_DOMAINS, ModelView
from gn_onnx.recognition.sizes import Size, product

_MAX_ELEMENTS = 1024
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.UINT8, ir.DataType.INT8)


class Context(Protocol):
    """What shape arithmetic needs of an evaluation."""

    view: ModelView
    scope: str

    def shape(self, value: ir.Value) -> tuple[Size, ...] | None: ...

    def integers(self, value: ir.Value | None) -> np.ndarray | None: ...

    def constant(self, value: ir.Value) -> np.ndarray | None: ...

    def attribute(self, node: ir.Node, name: str) -> ir.Attr | None: ...


def evaluate(context: Context, value: ir.Value) -> np.ndarray | None:
    """The elements of `value` as an object array of `Size` (of bool for comparisons), or None."""
    array = context.constant(value)
    if array is not None:
        return _of_constant(array)
    node = value.producer()
    if node is not None and node.domain in STANDARD_DOMAINS and node.op_type in _OPS:
        try:
            result = _OPS[node.op_type](context, node)
        except (ValueError, IndexError, TypeError, ZeroDivisionError):  # ill-typed or out of range: not followed
            result = None
        if result is not None:
            result = np.asarray(result, dtype=object)  # NumPy hands out the element where a result has no axes
            if result.size <= _MAX_ELEMENTS:
                return result
    array = context.view.folded(value)
    if array is not None:
        return _of_constant(array)
    return _unknown(context, value)


def is_rounded(context: Context, value: ir.Value, depth: int = 0) -> bool:
    """Whether an unknown size was divided on the way to `value`, so that it may have been rounded.

    A Reshape to a rounded size fails at run time; a number that is computed with goes on.
    """
    node = value.producer()
    if node is None or depth > _MAX_DEPTH or node.op_type in ("Shape", "Size"):
        return False
    if node.op_type == "Div":
        a, b = (context.integers(v) for v in node.inputs)
        if a is None or b is None or any(not _divides(q) for q in _map(_quotient, a, b).ravel()):
            return True
    return any(v is not None and is_rounded(context, v, depth + 1) for v in node.inputs)


_MAX_DEPTH = 24


def _quotient(a: object, b: object) -> Size | None:
    return a / b if isinstance(a, Size) and isinstance(b, Size) and not b.is_zero else None


def _divides(quotient: Size | None) -> bool:
    return quotient is not None and quotient.factor.denominator == 1 and all(e > 0 for _, e in quotient.symbols)


def axes_of(context: Context, node: ir.Node, rank: int | None = None) -> list[int] | None:
    """The `axes` of a node, attribute (older opsets) or second input (newer); None when absent.

    Raises:
        ValueError: When they are only known at run time.
    """
    given = context.attribute(node, "axes")
    if given is not None:
        axes = list(given.as_ints())
    elif len(node.inputs) > 1 and node.inputs[1] is not None:
        array = context.integers(node.inputs[1])
        if array is None:
            raise ValueError("axes that are only known at run time")
        axes = [static(size) for size in array.ravel()]
    else:
        return None
    return axes if rank is None else [axis % rank for axis in axes]


def static(size: Size) -> int:
    """The integer that a size is. Raises ValueError for a symbolic one."""
    value = size.static if isinstance(size, Size) else None
    if value is None:
        raise ValueError(f"{size} is only known at run time")
    return value


def _of_constant(array: np.ndarray) -> np.ndarray | None:
    if array.size > _MAX_ELEMENTS or array.dtype.kind not in "iubf":
        return None
    if array.dtype.kind == "f" and not np.all(array == np.floor(array)):
        return None
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        return None
    if array.dtype.kind == "b":
        return array.astype(object)
    return _map(lambda v: Size.of(int(v)), array.astype(object))


def _unknown(context: Context, value: ir.Value) -> np.ndarray | None:
    shape = context.view.shape(value)
    if value.dtype not in _INTEGERS or shape is None or len(shape) > 1:
        return None
    name = f"{context.scope}{value.name}"
    if not shape:
        return np.array(Size.symbol(name), dtype=object)
    length = shape[0].static
    if length is None or length > _MAX_ELEMENTS:
        return None
    return _objects([Size.symbol(f"{name}[{i}]") for i in range(length)])


def _objects(items: list[Size]) -> np.ndarray:
    out = np.empty(len(items), dtype=object)
    out[:] = items
    return out


def _map(function: Callable[..., object], *arrays: np.ndarray) -> np.ndarray:
    out = np.frompyfunc(function, len(arrays), 1)(*arrays)
    return np.asarray(out, dtype=object)


def _input(context: Context, node: ir.Node, index: int) -> np.ndarray:
    array = context.integers(node.inputs[index]) if index < len(node.inputs) else None
    if array is None:
        raise ValueError("not shape arithmetic")
    return array


def _ints(context: Context, node: ir.Node, index: int) -> list[int]:
    return [static(size) for size in _input(context, node, index).ravel()]


def _attribute(context: Context, node: ir.Node, name: str, default: int) -> int:
    given = context.attribute(node, name)
    return default if given is None else given.as_int()


def _shape(context: Context, node: ir.Node) -> np.ndarray | None:
    value = node.inputs[0]
    if value is None:
        return None
    shape = context.shape(value)
    if shape is None:
        array = context.integers(value)
        if array is None:
            return None
        shape = tuple(Size.of(n) for n in array.shape)
    start = _attribute(context, node, "start", 0)
    end = _attribute(context, node, "end", len(shape))
    return _objects(list(shape)[slice(*slice(start, end).indices(len(shape)))])


def _size(context: Context, node: ir.Node) -> np.ndarray | None:
    shape = context.shape(node.inputs[0]) if node.inputs[0] is not None else None
    return None if shape is None else np.array(product(shape), dtype=object)


def _gather(context: Context, node: ir.Node) -> np.ndarray:
    indices = _map(static, _input(context, node, 1)).astype(np.int64)
    return np.take(_input(context, node, 0), indices, axis=_attribute(context, node, "axis", 0))


def _slice(context: Context, node: ir.Node) -> np.ndarray:
    data = _input(context, node, 0)
    if "starts" in node.attributes:
        starts, ends = list(node.attributes["starts"].as_ints()), list(node.attributes["ends"].as_ints())
        axes = list(node.attributes["axes"].as_ints()) if "axes" in node.attributes else list(range(len(starts)))
        steps = [1] * len(starts)
    else:
        starts, ends = _ints(context, node, 1), _ints(context, node, 2)
        axes = _ints(context, node, 3) if len(node.inputs) > 3 and node.inputs[3] is not None else list(range(len(starts)))
        steps = _ints(context, node, 4) if len(node.inputs) > 4 and node.inputs[4] is not None else [1] * len(starts)
    index: list[slice] = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, None if step < 0 and end < -data.shape[axis] else end, step)
    return data[tuple(index)]


def _concat(context: Context, node: ir.Node) -> np.ndarray:
    return np.concatenate(
        [_input(context, node, i) for i in range(len(node.inputs))], axis=_attribute(context, node, "axis", 0)
    )


def _unsqueeze(context: Context, node: ir.Node) -> np.ndarray:
    data = _input(context, node, 0)
    axes = axes_of(context, node) or [0]
    return np.expand_dims(data, tuple(axis % (data.ndim + len(axes)) for axis in axes))


def _squeeze(context: Context, node: ir.Node) -> np.ndarray:
    data = _input(context, node, 0)
    axes = axes_of(context, node, data.ndim)
    return np.squeeze(data, None if axes is None else tuple(axes))


def _reshape(context: Context, node: ir.Node) -> np.ndarray:
    return _input(context, node, 0).reshape(_ints(context, node, 1))


def _same(context: Context, node: ir.Node) -> np.ndarray:
    return _input(context, node, 0)


def _cast(context: Context, node: ir.Node) -> np.ndarray:
    return _converted(_input(context, node, 0), ir.DataType(_attribute(context, node, "to", 0)))


def _cast_like(context: Context, node: ir.Node) -> np.ndarray:
    like = node.inputs[1]
    return _converted(
        _input(context, node, 0), (None if like is None else context.view.dtype(like)) or ir.DataType.UNDEFINED
    )


def _converted(data: np.ndarray, to: ir.DataType) -> np.ndarray:
    """Sizes in another type, where it can hold any size."""
    if to not in _HOLDS_SIZES:
        raise ValueError(f"sizes as {to.name}")
    return _map(lambda v: Size.of(int(v)) if isinstance(v, bool) else v, data)


_HOLDS_SIZES = {
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.UINT64,
    ir.DataType.UINT32,
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,  # (rounded there, but read as it was meant)
    ir.DataType.BFLOAT16,
}


def _binary(function: Callable[[Size, Size], object]) -> Callable[[Context, ir.Node], np.ndarray]:
    def apply(context: Context, node: ir.Node) -> np.ndarray:
        return _map(function, _input(context, node, 0), _input(context, node, 1))

    return apply


def _divide(a: Size, b: Size) -> Size:
    quotient = a / b
    if not quotient.is_whole:  # integers round, floats do not: say nothing where it makes a difference
        raise ValueError("a quotient that may be rounded")
    return quotient


def _div(context: Context, node: ir.Node) -> np.ndarray:
    whole = node.inputs[0] is not None and context.view.dtype(node.inputs[0]) in _INTEGERS

    def divide(a: Size, b: Size) -> Size:
        if whole and a.static is not None and b.static is not None:
            return Size.of(int(Fraction(a.factor) / b.factor))  # towards zero, as integers divide
        return _divide(a, b)

    return _map(divide, _input(context, node, 0), _input(context, node, 1))


def _static_binary(function: Callable[[int, int], int]) -> Callable[[Size, Size], Size]:
    return lambda a, b: Size.of(function(static(a), static(b)))


def _add(a: Size, b: Size) -> Size:
    if a.is_zero or b.is_zero:
        return b if a.is_zero else a
    return Size.of(static(a) + static(b))


def _subtract(a: Size, b: Size) -> Size:
    return a if b.is_zero else Size.of(static(a) - static(b))


def _equal(a: Size, b: Size) -> bool:
    if a == b:
        return True
    quotient = a / b if not b.is_zero else a
    if quotient.factor < 0 or (a.static is not None and b.static is not None):
        return False  # a size is never negative
    raise ValueError("a comparison that is decided at run time")


def _where(context: Context, node: ir.Node) -> np.ndarray:
    condition, a, b = (_input(context, node, i) for i in range(3))
    return _map(lambda c, u, v: u if c else v, condition, a, b)


def _one_hot(context: Context, node: ir.Node) -> np.ndarray:
    indices = _map(static, _input(context, node, 0)).astype(np.int64)
    (depth,) = _ints(context, node, 1)
    off, on = _input(context, node, 2)
    axis = _attribute(context, node, "axis", -1)
    hot = np.expand_dims(indices % depth, axis if axis >= 0 else indices.ndim + 1 + axis)
    shape = [1] * hot.ndim
    shape[axis] = depth
    return np.asarray(np.where(hot == np.arange(depth).reshape(shape), on, off), dtype=object)


def _filled(context: Context, node: ir.Node) -> np.ndarray:
    value = 0
    if "value" in node.attributes:
        value = int(node.attributes["value"].as_tensor().numpy().ravel()[0])
    return np.full(_ints(context, node, 0), Size.of(value), dtype=object)


def _expand(context: Context, node: ir.Node) -> np.ndarray:
    data = _input(context, node, 0)
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(_ints(context, node, 1))))


def _range(context: Context, node: ir.Node) -> np.ndarray:
    start, limit, delta = (_ints(context, node, i)[0] for i in range(3))
    return _objects([Size.of(v) for v in range(start, limit, delta)])


def _reduction(function: Callable[[np.ndarray], Size]) -> Callable[[Context, ir.Node], np.ndarray]:
    def apply(context: Context, node: ir.Node) -> np.ndarray:
        data = _input(context, node, 0)
        if data.ndim != 1 or (_attribute(context, node, "noop_with_empty_axes", 0) and not axes_of(context, node)):
            raise ValueError("not a reduction of all elements")
        total = np.array(data[0] if data.size == 1 else function(data), dtype=object)
        return total.reshape(1) if _attribute(context, node, "keepdims", 1) else total

    return apply


_OPS: dict[str, Callable[[Context, ir.Node], np.ndarray | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Identity": _same,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Floor": _same,
    "Ceil": _same,
    "Mul": _binary(lambda a, b: a * b),
    "Div": _div,
    "Add": _binary(_add),
    "Sub": _binary(_subtract),
    "Mod": _binary(_static_binary(lambda a, b: a % b)),
    "Max": _binary(_static_binary(max)),
    "Min": _binary(_static_binary(min)),
    "Equal": _binary(_equal),
    "Where": _where,
    "OneHot": _one_hot,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Range": _range,
    "ReduceProd": _reduction(product),
    "ReduceSum": _reduction(lambda data: Size.of(sum(map(static, data)))),
    "ReduceMax": _reduction(lambda data: Size.of(max(map(static, data)))),
    "ReduceMin": _reduction(lambda data: Size.of(min(map(static, data)))),
}
