"""Runs a small ONNX model in float64 with NumPy, some fifty times faster than `onnx.reference`.

Every floating-point type is read as float64 and every integer type as int64, so that two graphs that are equal over
the reals agree to 1e-10 or so, whatever their element types are; test_evaluate.py compares with `onnx.reference`.
A model is compiled once (attributes and constants read) and run on many inputs. Operators of `gn_onnx` run by the
function bodies that travel in the model. An operator that is not in the tables raises `Unsupported`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper

Array = np.ndarray
Environment = dict[str, Array]
Step = Callable[[Environment], None]

_FLOAT_TYPES = (1, 10, 11, 16)
_BOOL = 9


class Unsupported(Exception):  # noqa: N818 - the model is outside of what tests generate
    """An operator, or a use of one, that this evaluator does not know."""


def wide(array: Array) -> Array:
    """float64, int64 or bool; a longer float stays as it is, and what is computed from it is as long."""
    if array.dtype.kind == "b" or array.dtype == np.longdouble:
        return array
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    return array.astype(np.float64)


class Evaluator:
    """A compiled model.

    Args:
        model: Any model of the operators below.
        constant: What a floating-point constant is read as; see helpers.meant.
    """

    def __init__(self, model: onnx.ModelProto, constant: Callable[[Array], Array] = wide) -> None:
        scope = _Scope(
            {(f.domain, f.name, f.overload): f for f in model.functions}, constant, _opset(model.opset_import), {}
        )
        self.outputs = [value.name for value in model.graph.output]
        self._constants, self._steps = _compile_graph(model.graph, scope)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs by name; NumPy's errors pass through."""
        environment = dict(self._constants)
        environment.update((name, wide(np.asarray(array))) for name, array in feeds.items())
        with np.errstate(all="ignore"):
            for step in self._steps:
                step(environment)
        return {name: environment[name] for name in self.outputs}


@dataclasses.dataclass(frozen=True)
class _Scope:
    functions: dict[tuple[str, str, str], onnx.FunctionProto]
    constant: Callable[[Array], Array]
    opset: int
    given: Mapping[str, Any]
    """Attributes of the call, inside a function."""


@dataclasses.dataclass(frozen=True)
class Call:
    """What an operator's function gets besides its inputs."""

    attributes: dict[str, Any]
    opset: int
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)


def _opset(imports: Sequence[onnx.OperatorSetIdProto]) -> int:
    return next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), 1)


def _compile_graph(graph: onnx.GraphProto, scope: _Scope) -> tuple[Environment, list[Step]]:
    constants = {t.name: scope.constant(numpy_helper.to_array(t)) for t in graph.initializer}
    return constants, [_compile_node(node, scope) for node in graph.node]


def _compile_node(node: onnx.NodeProto, scope: _Scope) -> Step:
    attributes = {}
    for attribute in node.attribute:
        value = _attribute(attribute, scope)
        if value is not None:
            attributes[attribute.name] = value
    inputs, outputs = list(node.input), list(node.output)
    function = scope.functions.get((node.domain, node.op_type, node.overload))
    if function is not None:
        return _compile_call(function, attributes, inputs, outputs, scope)
    known = {"": OPERATORS, "ai.onnx": OPERATORS, "com.microsoft": CONTRIB}.get(node.domain, {})
    if node.op_type not in known:
        raise Unsupported(f"{node.domain}:{node.op_type}")
    operator, call = known[node.op_type], Call(attributes, scope.opset, len(outputs))
    if node.op_type in _WITH_ENVIRONMENT:
        run = operator

        def step(environment: Environment) -> None:
            results = run(call, environment, *(environment[name] if name else None for name in inputs))
            environment.update(zip(outputs, results, strict=False))

        return step
    if node.op_type == "Constant":
        value = operator(call, scope.constant)
        return lambda environment: environment.__setitem__(outputs[0], value)

    def plain(environment: Environment) -> None:
        result = operator(call, *(environment[name] if name else None for name in inputs))
        if isinstance(result, tuple):
            environment.update(zip(outputs, result, strict=False))
        else:
            environment[outputs[0]] = result

    return plain


def _compile_call(
    function: onnx.FunctionProto, attributes: dict[str, Any], inputs: list[str], outputs: list[str], scope: _Scope
) -> Step:
    defaults = {a.name: _attribute(a, scope) for a in function.attribute_proto}
    inner = dataclasses.replace(scope, given={**defaults, **attributes}, opset=_opset(function.opset_import))
    steps = [_compile_node(node, inner) for node in function.node]

    def step(environment: Environment) -> None:
        local = {p: environment[a] for p, a in zip(function.input, inputs, strict=False) if a}
        local.update((p, None) for p in list(function.input) if p not in local)
        for each in steps:
            each(local)
        environment.update((o, local[name]) for name, o in zip(function.output, outputs, strict=False) if o)

    return step


def _attribute(attribute: onnx.AttributeProto, scope: _Scope) -> Any:
    if attribute.ref_attr_name:
        return scope.given.get(attribute.ref_attr_name)
    if attribute.type == AttributeProto.GRAPH:
        return (attribute.g, *_compile_graph(attribute.g, scope))
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


# --- operators -------------------------------------------------------------------------------------------------------


def _constant_value(call: Call, constant: Callable[[Array], Array]) -> Array:
    for name, value in call.attributes.items():
        if name == "value":
            return constant(numpy_helper.to_array(value))
        if name in ("value_float", "value_floats"):
            return constant(np.asarray(value, np.float32))
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    raise Unsupported("Constant of another kind")


def _axes(call: Call, axes: Array | None) -> list[int] | None:
    given = call.get("axes")
    if given is not None:
        return [int(axis) for axis in given]
    return None if axes is None else [int(axis) for axis in np.ravel(axes)]


def _reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    def apply(call: Call, x: Array, axes: Array | None = None) -> Array:
        along = _axes(call, axes)
        if x.size == 0:
            raise ValueError("statistics of an empty tensor")
        keepdims = bool(call.get("keepdims", 1))
        if not along:
            if call.get("noop_with_empty_axes", 0):
                return function(x, (), keepdims)
            along = list(range(x.ndim))
        return function(x, tuple(along), keepdims)

    return apply


def _reshape(call: Call, x: Array, shape: Array) -> Array:
    target = [int(size) for size in shape]
    if not call.get("allowzero", 0):
        target = [x.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return x.reshape(target)


def _flatten(call: Call, x: Array) -> Array:
    axis = call.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1)


def _unsqueeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    return np.expand_dims(x, tuple(_axes(call, axes) or ()))


def _squeeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    along = _axes(call, axes)
    return np.squeeze(x, None if along is None else tuple(along))


def _slice(call: Call, x: Array, *inputs: Array | None) -> Array:
    if "starts" in call.attributes:
        starts, ends = call.get("starts"), call.get("ends")
        axes, steps = call.get("axes"), None
    else:
        starts, ends, axes, steps = (None if v is None else list(v) for v in (*inputs, None, None)[:4])
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        start, end, step = int(start), int(end), int(step)
        index[int(axis)] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
    return x[tuple(index)]


def _split(call: Call, x: Array, sizes: Array | None = None) -> tuple[Array, ...]:
    axis = call.get("axis", 0)
    sizes = call.get("split") if sizes is None else sizes
    if sizes is None:
        if call.opset < 18 and x.shape[axis] % call.outputs:
            raise ValueError("Split: before opset 18 the parts are equal")
        part = -(-x.shape[axis] // call.outputs)
        sizes = [part] * (call.outputs - 1) + [x.shape[axis] - part * (call.outputs - 1)]
    if sum(int(s) for s in sizes) != x.shape[axis] or len(sizes) != call.outputs:
        raise ValueError("Split: sizes do not add up")
    return tuple(np.split(x, np.cumsum([int(s) for s in sizes])[:-1], axis=axis))


def _cast(call: Call, x: Array) -> Array:
    to = call.get("to")
    if to in _FLOAT_TYPES:
        return wide(x.astype(np.float64) if x.dtype.kind != "f" else x)
    if to == _BOOL:
        return x.astype(np.bool_)
    whole = (np.trunc(x) if x.dtype.kind == "f" else x).astype(np.int64)
    return whole.astype(onnx.helper.tensor_dtype_to_np_dtype(to)).astype(np.int64)  # too large for the type: it wraps


def _divide(call: Call, a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu":
        if np.any(b == 0):
            raise ValueError("Div: by zero")
        quotient = a // b
        return quotient + ((quotient < 0) & (quotient * b != a))  # towards zero
    return a / b


def _pow(call: Call, a: Array, b: Array) -> Array:
    result = np.power(a if a.dtype.kind == "f" else a.astype(np.float64), b)
    return result if a.dtype.kind == "f" else result.astype(a.dtype)


def _standardised(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    if x.size == 0:
        raise ValueError("statistics of an empty tensor")
    mean = x.mean(axis=axes, keepdims=True)
    centred = x - mean
    rstd = 1.0 / np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + epsilon)
    return centred * rstd, mean, rstd


def _column(value: Array, rank: int) -> Array:
    if value.ndim != 1:
        raise ValueError("scale, bias, mean and variance are vectors")
    return value.reshape((-1,) + (1,) * (rank - 2))


def _instance_norm(call: Call, x: Array, scale: Array, bias: Array) -> Array:
    if scale.shape != (x.shape[1],) or bias.shape != scale.shape:
        raise ValueError("InstanceNormalization: one scale and one bias per channel")
    normal, _, _ = _standardised(x, tuple(range(2, x.ndim)), call.get("epsilon", 1e-5))
    return normal * _column(scale, x.ndim) + _column(bias, x.ndim)


def _layer_norm(call: Call, x: Array, scale: Array, bias: Array | None = None) -> tuple[Array, ...]:
    axis = call.get("axis", -1) % x.ndim
    if scale.ndim > x.ndim - axis:
        raise ValueError("LayerNormalization: the scale has more axes than are normalised")
    normal, mean, rstd = _standardised(x, tuple(range(axis, x.ndim)), call.get("epsilon", 1e-5))
    return normal * scale + (0.0 if bias is None else bias), mean, rstd


def _batch_norm(call: Call, x: Array, scale: Array, bias: Array, mean: Array, variance: Array) -> tuple[Array, ...]:
    if any(v.shape != (x.shape[1],) for v in (scale, bias, mean, variance)):
        raise ValueError("BatchNormalization: vectors of length C")
    epsilon, rank = call.get("epsilon", 1e-5), x.ndim
    if not call.get("training_mode", 0):
        rstd = 1.0 / np.sqrt(_column(variance, rank) + epsilon)
        return ((x - _column(mean, rank)) * rstd * _column(scale, rank) + _column(bias, rank),)
    axes = tuple(i for i in range(rank) if i != 1)
    normal, batch_mean, _ = _standardised(x, axes, epsilon)
    momentum = call.get("momentum", 0.9)
    y = normal * _column(scale, rank) + _column(bias, rank)
    new_mean = mean * momentum + batch_mean.ravel() * (1 - momentum)
    return y, new_mean, variance * momentum + x.var(axis=axes) * (1 - momentum)


def _group_norm(call: Call, x: Array, scale: Array, bias: Array) -> Array:
    groups = call.get("num_groups")
    per_group = call.opset < 21
    expected = groups if per_group else x.shape[1]
    if x.shape[1] % groups or scale.shape != (expected,) or bias.shape != (expected,):
        raise ValueError("GroupNormalization: groups, scale or bias do not fit")
    normal, _, _ = _standardised(x.reshape(x.shape[0], groups, -1), (2,), call.get("epsilon", 1e-5))
    if per_group:
        return (normal * scale[:, None] + bias[:, None]).reshape(x.shape)
    return normal.reshape(x.shape) * _column(scale, x.ndim) + _column(bias, x.ndim)


def _mean_variance(call: Call, x: Array) -> Array:
    axes = tuple(call.get("axes", [0, 2, 3]))
    mean = x.mean(axis=axes, keepdims=True)
    deviation = np.sqrt(np.square(x).mean(axis=axes, keepdims=True) - mean**2)
    return (x - mean) / (deviation + 1e-9)


def _clip(call: Call, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    low = call.get("min", -np.inf) if low is None else low
    return np.minimum(np.maximum(x, low), call.get("max", np.inf) if high is None else high)


def _dropout(call: Call, x: Array, ratio: Array | None = None, training: Array | None = None) -> tuple[Array, ...]:
    if training is not None and np.any(training):
        raise Unsupported("Dropout in training mode")
    return x, np.ones(x.shape, np.bool_)


def _windows(call: Call, x: Array, kernel: Sequence[int]) -> Array:
    """[N, C, *positions, *kernel]; without dilations."""
    rank = len(kernel)
    automatic = call.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET") and set(kernel) != {1}
    if automatic or set(call.get("dilations", [1])) != {1}:
        raise Unsupported("windows with automatic padding or dilations")
    pads = call.get("pads") or [0] * (2 * rank)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    view = np.lib.stride_tricks.sliding_window_view(x, tuple(kernel), axis=tuple(range(2, 2 + rank)))
    steps = tuple(slice(None, None, step) for step in call.get("strides") or [1] * rank)
    return view[(slice(None), slice(None), *steps)]


def _conv(call: Call, x: Array, weight: Array, bias: Array | None = None) -> Array:
    groups = call.get("group", 1)
    view = _windows(call, x, weight.shape[2:])
    kernel = tuple(range(view.ndim - (x.ndim - 2), view.ndim))
    parts = zip(np.split(view, groups, axis=1), np.split(weight, groups), strict=True)
    axes = ([1, *kernel], [1, *range(2, weight.ndim)])
    y = np.concatenate([np.moveaxis(np.tensordot(v, w, axes), -1, 1) for v, w in parts], axis=1)
    return y if bias is None else y + _column(bias, x.ndim)


def _average_pool(call: Call, x: Array) -> Array:
    kernel = call.get("kernel_shape")
    view = _windows(call, x, kernel)
    axes = tuple(range(view.ndim - len(kernel), view.ndim))
    if call.get("count_include_pad", 0) or not any(call.get("pads") or [0]):
        return view.mean(axis=axes)
    return view.sum(axis=axes) / _windows(call, np.ones_like(x), kernel).sum(axis=axes)


def _resize(call: Call, x: Array, _roi: Array | None, scales: Array | None = None, sizes: Array | None = None) -> Array:
    """Nearest neighbours, asymmetric coordinates."""
    rounded = {b"floor": np.floor, b"ceil": np.ceil, "floor": np.floor, "ceil": np.ceil}.get(call.get("nearest_mode"))
    if call.get("coordinate_transformation_mode") != "asymmetric" or rounded is None or scales is None or sizes is not None:
        raise Unsupported("Resize of another kind")
    for axis, scale in enumerate(scales):
        at = rounded(np.arange(int(x.shape[axis] * scale)) / scale).astype(np.int64)
        x = np.take(x, np.minimum(at, x.shape[axis] - 1), axis=axis)
    return x


def _quantize(call: Call, x: Array, step: Array, zero: Array) -> Array:
    """To int8 with one step for all: types are not kept here."""
    if np.size(step) != 1 or np.any(zero != 0):
        raise Unsupported("QuantizeLinear of another kind")
    return np.clip(np.round(x / step), -128, 127).astype(np.int64)


def _pad(call: Call, x: Array, pads: Array | None = None, value: Array | None = None) -> Array:
    given = call.get("pads") if pads is None else [int(n) for n in pads]
    if call.get("mode", b"constant") not in (b"constant", "constant") or value is not None or min(given) < 0:
        raise Unsupported("Pad of another kind")
    return np.pad(x, list(zip(given[: x.ndim], given[x.ndim :], strict=True)))


def _tile(call: Call, x: Array, repeats: Array) -> Array:
    if len(repeats) != x.ndim:
        raise ValueError("Tile: one repeat per axis")
    return np.tile(x, [int(r) for r in repeats])


def _expand(call: Call, x: Array, shape: Array) -> Array:
    return np.array(np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(s) for s in shape))))


def _shape(call: Call, x: Array) -> Array:
    return np.asarray(x.shape[call.get("start", 0) : call.get("end", None)], np.int64)


def _gather(call: Call, x: Array, indices: Array) -> Array:
    return np.take(x, indices, axis=call.get("axis", 0))


def _scatter_nd(call: Call, x: Array, indices: Array, updates: Array) -> Array:
    out = x.copy()
    where = tuple(np.moveaxis(indices, -1, 0))
    if call.get("reduction", b"none") in (b"add", "add"):
        np.add.at(out, where, updates)
    else:
        out[where] = updates
    return out


def _scatter_elements(call: Call, x: Array, indices: Array, updates: Array) -> Array:
    out = x.copy()
    np.put_along_axis(out, indices, updates, axis=call.get("axis", 0))
    return out


def _constant_of_shape(call: Call, shape: Array) -> Array:
    value = call.get("value")
    fill = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    return np.full([int(s) for s in shape], wide(fill).ravel()[0])


def _kept(x: Array, call: Call) -> Array:
    return np.expand_dims(x, call.get("axis", 0)) if call.get("keepdims", 1) else x


def _sigmoid(call: Call, x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def _hard_sigmoid(call: Call, x: Array) -> Array:
    return np.clip(x * call.get("alpha", 0.2) + call.get("beta", 0.5), 0.0, 1.0)


def _mod(call: Call, a: Array, b: Array) -> Array:
    return np.fmod(a, b) if call.get("fmod", 0) else np.mod(a, b)


# --- control flow ----------------------------------------------------------------------------------------------------

_Body = tuple[onnx.GraphProto, Environment, list[Step]]


def _run_body(body: _Body, environment: Environment, arguments: Sequence[Array]) -> list[Array]:
    graph, constants, steps = body
    local = {**environment, **constants}
    local.update(zip((value.name for value in graph.input), arguments, strict=True))
    for step in steps:
        step(local)
    return [local[value.name] for value in graph.output]


def _if(call: Call, environment: Environment, condition: Array) -> list[Array]:
    return _run_body(call.get("then_branch" if bool(np.ravel(condition)[0]) else "else_branch"), environment, [])


def _loop(call: Call, environment: Environment, count: Array | None, condition: Array | None, *state: Array) -> list[Array]:
    body: _Body = call.get("body")
    keep, carried, scanned = condition is None or bool(condition), list(state), []
    iteration, limit = 0, np.inf if count is None else int(count)
    while keep and iteration < min(limit, 100):
        flag, *results = _run_body(body, environment, [np.asarray(iteration), np.asarray(keep), *carried])
        keep, carried = bool(flag), results[: len(state)]
        scanned.append(results[len(state) :])
        iteration += 1
    return [*carried, *(np.stack(values) for values in zip(*scanned, strict=True))]


def _scan(call: Call, environment: Environment, *inputs: Array) -> list[Array]:
    if any(call.get(name) for name in ("scan_input_axes", "scan_output_axes", "scan_input_directions")):
        raise Unsupported("Scan along another axis")
    count = call.get("num_scan_inputs")
    carried, scanned = list(inputs[: len(inputs) - count]), []
    for i in range(inputs[-1].shape[0]):
        slices = [value[i] for value in inputs[len(inputs) - count :]]
        results = _run_body(call.get("body"), environment, [*carried, *slices])
        carried, rest = results[: len(carried)], results[len(carried) :]
        scanned.append(rest)
    return [*carried, *(np.stack(values) for values in zip(*scanned, strict=True))]


def _plain(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda call, *inputs: function(*inputs)


def _gemm(call: Call, a: Array, b: Array, c: Array | None = None) -> Array:
    left = np.swapaxes(a, -1, -2) if call.get("transA", 0) else a
    right = np.swapaxes(b, -1, -2) if call.get("transB", 0) else b
    product = call.get("alpha", 1.0) * (left @ right)
    return product if c is None else product + call.get("beta", 1.0) * c


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": _plain(np.abs),
    "Add": _plain(np.add),
    "And": _plain(np.logical_and),
    "ArgMax": lambda call, x: _kept(x.argmax(axis=call.get("axis", 0)), call),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": lambda call, x, like: x.astype(like.dtype),
    "Ceil": _plain(np.ceil),
    "Clip": _clip,
    "Concat": lambda call, *inputs: np.concatenate(inputs, axis=call.get("axis")),
    "Constant": _constant_value,
    "ConstantOfShape": _constant_of_shape,
    "AveragePool": _average_pool,
    "Conv": _conv,
    "Div": _divide,
    "Dropout": _dropout,
    "Einsum": lambda call, *inputs: np.einsum(call.get("equation"), *inputs),
    "Equal": _plain(np.equal),
    "Exp": _plain(np.exp),
    "EyeLike": lambda call, x: np.eye(*x.shape, call.get("k", 0)),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _plain(np.floor),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda call, x: x.mean(axis=tuple(range(2, x.ndim)), keepdims=True),
    "GlobalMaxPool": lambda call, x: x.max(axis=tuple(range(2, x.ndim)), keepdims=True),
    "Greater": _plain(np.greater),
    "GreaterOrEqual": _plain(np.greater_equal),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda call, x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Identity": _plain(lambda x: x),
    "If": _if,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda call, x: np.where(x < 0, call.get("alpha", 0.01) * x, x),
    "PRelu": lambda call, x, slope: np.where(x < 0, slope * x, x),
    "Less": _plain(np.less),
    "LessOrEqual": _plain(np.less_equal),
    "Log": _plain(np.log),
    "Loop": _loop,
    "MatMul": _plain(np.matmul),
    "Max": lambda call, *inputs: np.maximum.reduce(np.broadcast_arrays(*inputs)),
    "Mean": lambda call, *inputs: np.mean(np.broadcast_arrays(*inputs), axis=0),
    "MeanVarianceNormalization": _mean_variance,
    "Min": lambda call, *inputs: np.minimum.reduce(np.broadcast_arrays(*inputs)),
    "Mod": _mod,
    "Mul": _plain(np.multiply),
    "Neg": _plain(np.negative),
    "Not": _plain(np.logical_not),
    "Or": _plain(np.logical_or),
    "Pow": _pow,
    "Range": _plain(np.arange),
    "Reciprocal": _plain(lambda x: 1.0 / x),
    "ReduceL1": _reduction(lambda x, a, k: np.abs(x).sum(axis=a, keepdims=k)),
    "ReduceL2": _reduction(lambda x, a, k: np.sqrt(np.square(x).sum(axis=a, keepdims=k))),
    "ReduceMax": _reduction(lambda x, a, k: x.max(axis=a, keepdims=k)),
    "ReduceMean": _reduction(lambda x, a, k: x.mean(axis=a, keepdims=k) if a else x),
    "ReduceMin": _reduction(lambda x, a, k: x.min(axis=a, keepdims=k)),
    "ReduceProd": _reduction(lambda x, a, k: x.prod(axis=a, keepdims=k)),
    "ReduceSum": _reduction(lambda x, a, k: x.sum(axis=a, keepdims=k)),
    "ReduceSumSquare": _reduction(lambda x, a, k: np.square(x).sum(axis=a, keepdims=k)),
    "Relu": _plain(lambda x: np.maximum(x, 0)),
    "Reshape": _reshape,
    "Scan": _scan,
    "Shape": _shape,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": lambda call, x, step, zero: (x - zero) * step,
    "Resize": _resize,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Sigmoid": _sigmoid,
    "Sign": _plain(np.sign),
    "Size": _plain(lambda x: np.asarray(x.size, np.int64)),
    "Slice": _slice,
    "Softplus": _plain(lambda x: np.log1p(np.exp(x))),
    "Split": _split,
    "Sqrt": _plain(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(np.subtract),
    "Sum": lambda call, *inputs: sum(inputs[1:], start=inputs[0]),
    "Swish": lambda call, x: x * _sigmoid(call, x * call.get("alpha", 1.0)),
    "Tanh": _plain(np.tanh),
    "Tile": _tile,
    "Transpose": lambda call, x: np.transpose(x, call.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _plain(np.where),
}

_WITH_ENVIRONMENT = {"If", "Loop", "Scan"}


def _contrib_group_norm(call: Call, x: Array, scale: Array, bias: Array) -> Array:
    rank, groups = x.ndim, call.get("groups", 1)
    first = np.moveaxis(x, -1, 1) if call.get("channels_last", 1) else x
    grouped = first.reshape(first.shape[0], groups, -1)
    y = _standardised(grouped, (2,), call.get("epsilon", 1e-5))[0].reshape(first.shape)
    y = y * _column(scale, rank) + _column(bias, rank)
    y = np.moveaxis(y, 1, -1) if call.get("channels_last", 1) else y
    return y * _sigmoid(call, y) if call.get("activation", 0) else y


def _skip_group_norm(
    call: Call, x: Array, scale: Array, bias: Array, skip: Array, shift: Array | None = None
) -> tuple[Array, Array]:
    total = x + (skip if skip.ndim == x.ndim else skip[:, None, None, :])
    total = total if shift is None else total + shift
    return _contrib_group_norm(call, total, scale, bias), total


CONTRIB = {"FusedMatMul": _gemm, "GroupNorm": _contrib_group_norm, "SkipGroupNorm": _skip_group_norm}
"""Of the com.microsoft domain."""
