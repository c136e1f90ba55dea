"""The activations that our operators can apply, found behind a value y in any spelling.

SiLU is y * sigmoid(y): Sigmoid and Mul, Swish or QuickGelu with alpha 1, y / (1 + exp(-y)), a function of such a body.
HardSwish is y * clip(y / 6 + 1/2, 0, 1), whatever is multiplied first. ReLU and LeakyReLU are taken as themselves, and
as a maximum of y and 0, or of y and a smaller multiple of y; a PRelu with one fixed slope is a LeakyReLU.
Only y itself is looked at, so that the result is exact over all reals.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from gn_onnx.recognition.model_view import STANDARD_DOMAINS, ModelView

_LARGE = 1e30
_TOLERANCE = {ir.DataType.FLOAT16: 1e-3, ir.DataType.BFLOAT16: 8e-3}
"""Relative tolerance for the constants of an activation, by their element type: 1/6 is rounded in it."""

_SIX_DIGITS = 3e-6
"""The same in float32 and for attributes: 0.166667 is meant as 1/6, 0.1667 is another slope."""

_MAX_NESTED_CALLS = 8
_MAX_STEPS = 3
"""Operations with a constant, one after the other, in one spelling."""


@dataclasses.dataclass(frozen=True)
class Activation:
    """`output` is the activation `name` (one of `group_norm.ACTIVATIONS`) of y; alpha is the slope of leaky_relu."""

    name: str
    output: ir.Value
    alpha: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Site:
    """A value that an activation is looked for behind."""

    view: ModelView
    y: ir.Value
    rank: int
    calls: int = 0

    @property
    def tolerance(self) -> float:
        """For constants of y's element type."""
        return _TOLERANCE.get(self.view.dtype(self.y) or ir.DataType.FLOAT, _SIX_DIGITS)

    def number(self, value: ir.Value | None) -> float | None:
        """The value of a constant of one element that does not add an axis."""
        array = None if value is None else self.view.folded(value)
        if array is None or array.size != 1 or array.ndim > self.rank or array.dtype.kind not in "fiV":
            return None
        return float(array.ravel()[0])


def activations(view: ModelView, y: ir.Value, rank: int) -> Iterator[Activation]:
    """Every activation of ours that is applied to y, which has `rank` dimensions."""
    site = _Site(view, y, rank)
    for spelling in _SPELLINGS:
        yield from spelling(site)


def _users(value: ir.Value, *ops: str) -> list[ir.Node]:
    return [node for node, _ in value.uses() if node.domain in STANDARD_DOMAINS and node.op_type in ops]


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The other operand of a binary node; `value` itself where it is both."""
    first, second = node.inputs
    return second if first is value else first


def _near(number: float | None, expected: float, tolerance: float = _SIX_DIGITS) -> bool:
    return number is not None and math.isclose(number, expected, rel_tol=tolerance)


def _float(node: ir.Node, name: str, default: float) -> float | None:
    """An attribute's value; None when it is the caller's."""
    if name not in node.attributes:
        return default
    return None if node.attributes[name].is_ref() else node.attributes[name].as_float()


def _scaled(site: _Site, node: ir.Node, value: ir.Value) -> float | None:
    """c, where the node computes c * value."""
    if node.op_type == "Neg":
        return -1.0
    if node.op_type == "Mul":
        return site.number(_other(node, value))
    if node.op_type == "Div" and node.inputs[0] is value:
        divisor = site.number(node.inputs[1])
        return 1.0 / divisor if divisor else None
    return None


def _affine(site: _Site) -> dict[ir.Value, tuple[float, float]]:
    """Values a * y + b with their a and b, in few steps."""
    known = {site.y: (1.0, 0.0)}
    frontier = [site.y]
    for _ in range(_MAX_STEPS):
        reached = []
        for value in frontier:
            a, b = known[value]
            for node in _users(value, "Add", "Sub", "Mul", "Div", "Neg"):
                factor = _scaled(site, node, value)
                if factor is not None:
                    found = a * factor, b * factor
                elif node.op_type in ("Add", "Sub") and node.inputs[0] is not node.inputs[1]:
                    term = site.number(_other(node, value))
                    if term is None or (node.op_type == "Sub" and node.inputs[0] is not value):
                        continue
                    found = a, b + (term if node.op_type == "Add" else -term)
                else:
                    continue
                if node.outputs[0] not in known:
                    known[node.outputs[0]] = found
                    reached.append(node.outputs[0])
        frontier = reached
    return known


def _bounds(site: _Site, clip: ir.Node) -> tuple[float | None, float | None]:
    bounds: list[float | None] = []
    for index, (name, missing) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        value = clip.inputs[index] if index < len(clip.inputs) else None
        number = _float(clip, name, missing) if value is None else site.number(value)
        bounds.append(missing if number is not None and abs(number) > _LARGE else number)
    return bounds[0], bounds[1]


def _rectified(site: _Site, value: ir.Value) -> Iterator[ir.Value]:
    """The maximum of a value and 0."""
    for node in _users(value, "Relu", "Max", "Clip"):
        if (
            node.op_type == "Relu"
            or (node.op_type == "Max" and len(node.inputs) == 2 and site.number(_other(node, value)) == 0.0)
            or (node.op_type == "Clip" and node.inputs[0] is value and _bounds(site, node) == (0.0, math.inf))
        ):
            yield node.outputs[0]


def _relu(site: _Site) -> Iterator[Activation]:
    for output in _rectified(site, site.y):
        yield Activation("relu", output)


def _leaky_relu(site: _Site) -> Iterator[Activation]:
    y = site.y
    for node in _users(y, "LeakyRelu"):
        alpha = _float(node, "alpha", 0.01)
        if alpha is not None:
            yield Activation("leaky_relu", node.outputs[0], alpha)
    for node in _users(y, "PRelu"):
        slope = None if node.inputs[1] is None else site.view.folded(node.inputs[1])
        if node.inputs[0] is y and slope is not None and slope.size and np.all(slope == slope.ravel()[0]):
            yield Activation("leaky_relu", node.outputs[0], float(slope.ravel()[0]))
    for product in _users(y, "Mul"):
        alpha = _scaled(site, product, y)
        for node in _users(product.outputs[0], "Max"):
            if len(node.inputs) == 2 and _other(node, product.outputs[0]) is y and alpha is not None and 0.0 < alpha < 1.0:
                yield Activation("leaky_relu", node.outputs[0], alpha)


def _silu(site: _Site) -> Iterator[Activation]:
    y = site.y
    for node, _ in y.uses():
        alpha = None
        if node.op_type == "Swish" and node.domain in STANDARD_DOMAINS:
            alpha = _float(node, "alpha", 1.0)
        elif node.op_type == "QuickGelu" and node.domain == "com.microsoft":
            alpha = _float(node, "alpha", 1.702)
        if alpha == 1.0 or _is_silu_function(site, node):
            yield Activation("silu", node.outputs[0])
    for denominator in _one_plus_exp(site):
        for quotient in _users(denominator, "Div"):
            if quotient.inputs[0] is y and quotient.inputs[1] is denominator:
                yield Activation("silu", quotient.outputs[0])
    for sigmoid in _sigmoids(site):
        for product in _users(sigmoid, "Mul"):
            if _other(product, sigmoid) is y:
                yield Activation("silu", product.outputs[0])


def _sigmoids(site: _Site) -> Iterator[ir.Value]:
    for node in _users(site.y, "Sigmoid"):
        yield node.outputs[0]
    for denominator in _one_plus_exp(site):
        for node in _users(denominator, "Reciprocal", "Div"):
            if node.op_type == "Reciprocal" or (node.inputs[1] is denominator and site.number(node.inputs[0]) == 1.0):
                yield node.outputs[0]


def _one_plus_exp(site: _Site) -> Iterator[ir.Value]:
    """Values 1 + exp(-y)."""
    for minus in _users(site.y, "Neg", "Mul", "Div"):
        if _scaled(site, minus, site.y) != -1.0:
            continue
        for power in _users(minus.outputs[0], "Exp"):
            for total in _users(power.outputs[0], "Add"):
                if site.number(_other(total, power.outputs[0])) == 1.0:
                    yield total.outputs[0]


def _is_silu_function(site: _Site, node: ir.Node) -> bool:
    """A call of a model-local function whose body is x * sigmoid(x)."""
    function = site.view.functions.get(node.op_identifier())
    if function is None or len(function.inputs) != 1 or len(function.outputs) != 1 or len(node.inputs) != 1:
        return False
    if site.calls >= _MAX_NESTED_CALLS:  # a function that calls itself
        return False
    inner = _Site(site.view, function.inputs[0], site.rank, site.calls + 1)
    return any(found.output is function.outputs[0] for found in _silu(inner))


def _hard_swish(site: _Site) -> Iterator[Activation]:
    """Products of gate, y and constants that come to y * clip(y / 6 + 1/2, 0, 1)."""
    for node in _users(site.y, "HardSwish"):
        yield Activation("hard_swish", node.outputs[0])
    affine = _affine(site)
    products = [(gate, factor, False) for gate, factor in _hard_gates(site, affine)]
    for _ in range(_MAX_STEPS):
        reached = []
        for value, factor, has_y in products:
            for node in _users(value, "Mul", "Div"):
                other = _other(node, value)
                number = _scaled(site, node, value)
                if number is not None:
                    reached.append((node.outputs[0], factor * number, has_y))
                elif node.op_type == "Mul" and not has_y and other in affine and affine[other][1] == 0.0:
                    reached.append((node.outputs[0], factor * affine[other][0], True))
        products = reached
        for value, factor, has_y in products:
            if has_y and _near(factor, 1.0, site.tolerance):
                yield Activation("hard_swish", value)


def _hard_gates(site: _Site, affine: dict[ir.Value, tuple[float, float]]) -> Iterator[tuple[ir.Value, float]]:
    """Values f * clip(y / 6 + 1/2, 0, 1), with f."""
    for node in _users(site.y, "HardSigmoid"):
        if _near(_float(node, "alpha", 0.2), 1 / 6) and _near(_float(node, "beta", 0.5), 0.5):
            yield node.outputs[0], 1.0
    for value, (a, b) in affine.items():
        for clipped, high in _clipped(site, value):
            if high > 0 and _near(a / high, 1 / 6, site.tolerance) and _near(b / high, 0.5, site.tolerance):
                yield clipped, high


def _clipped(site: _Site, value: ir.Value) -> Iterator[tuple[ir.Value, float]]:
    """clip(value, 0, high), with high."""
    for node in _users(value, "Clip"):
        low, high = _bounds(site, node)
        if node.inputs[0] is value and low == 0.0 and high is not None:
            yield node.outputs[0], high
    for rectified in _rectified(site, value):
        for node in _users(rectified, "Min"):
            high = site.number(_other(node, rectified)) if len(node.inputs) == 2 else None
            if high is not None:
                yield node.outputs[0], high


_SPELLINGS: tuple[Callable[[_Site], Iterator[Activation]], ...] = (_relu, _silu, _hard_swish, _leaky_relu)
