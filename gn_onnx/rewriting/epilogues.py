"""The activation behind a GroupNorm, taken into the node where nothing else uses the normalised value.

SiLU is `y * sigmoid(y)` in any spelling (also Swish and QuickGelu with alpha 1, and y / (1 + exp(-y))). HardSwish and
ReLU are taken as themselves, LeakyRelu and a PRelu with one fixed slope as leaky_relu. Only the GroupNorm's own value
is looked at, so that the result is exact whatever the activation's input range.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from gn_onnx.group_norm import GroupNorm
from gn_onnx.recognition.model_view import STANDARD_DOMAINS, ModelView

_LARGE = 1e30
_TOLERANCE = 1e-3
"""Relative tolerance for the constants of an activation (1/6 in float16); none of them is near another activation's."""


@dataclasses.dataclass(frozen=True)
class _Activation:
    name: str
    output: ir.Value
    alpha: float = 0.0


def with_epilogues(model: ir.Model, group_norms: Iterable[GroupNorm]) -> list[GroupNorm]:
    """The records, extended over the activation that follows where there is one of ours."""
    view = ModelView(model)
    inputs = {group_norm.x for group_norm in group_norms}
    extended = []
    for group_norm in group_norms:
        found = None if group_norm.activation != "none" else _find(view, group_norm.output)
        # The value between may be another GroupNorm's input: then it has to stay.
        if found is None or group_norm.output in inputs:
            extended.append(group_norm)
            continue
        more = _names_between(group_norm.output, found.output)
        extended.append(
            dataclasses.replace(
                group_norm,
                output=found.output,
                activation=found.name,
                alpha=found.alpha,
                node_names=(*group_norm.node_names, *more),
            )
        )
    return extended


def _find(view: ModelView, y: ir.Value) -> _Activation | None:
    if y.is_graph_output():
        return None
    users = [node for node, _ in y.uses() if node.op_type != "Shape"]
    for recognise in _SPELLINGS:
        found = recognise(view, y)
        if found is not None and _only_leads_to(users, found.output):
            return found
    return None


def _only_leads_to(users: Sequence[ir.Node], output: ir.Value) -> bool:
    """Whether everything computed from the normalised value ends in `output`."""
    stack, seen = list(users), set(users)
    end = output.producer()
    while stack:
        node = stack.pop()
        if node is end:
            continue
        for value in node.outputs:
            if value.is_graph_output() or (not value.uses() and len(node.outputs) == 1):
                return False
            for user, _ in value.uses():
                if user not in seen:
                    seen.add(user)
                    stack.append(user)
        if len(seen) > 16:
            return False
    return True


def _names_between(y: ir.Value, output: ir.Value) -> list[str]:
    names: list[str] = []
    stack = [output]
    while stack:
        node = stack.pop().producer()
        if node is None or (node.name or "") in names:
            continue
        names.insert(0, node.name or "")
        stack.extend(v for v in node.inputs if v is not None and v is not y and v.producer() is not None and _uses(v, y))
    return names


def _uses(value: ir.Value, y: ir.Value) -> bool:
    """Whether `value` is computed from y within a few steps."""
    frontier = [value]
    for _ in range(4):
        producers = [v.producer() for v in frontier]
        frontier = [i for p in producers if p is not None for i in p.inputs if i is not None]
        if y in frontier:
            return True
    return False


def _standard(node: ir.Node | None, *ops: str) -> bool:
    return node is not None and node.domain in STANDARD_DOMAINS and node.op_type in ops


def _number(view: ModelView, value: ir.Value | None) -> float | None:
    """The value of a constant of one element."""
    array = None if value is None else view.folded(value)
    return float(array.ravel()[0]) if array is not None and array.size == 1 and array.dtype.kind in "fiV" else None


def _near(number: float | None, expected: float) -> bool:
    return number is not None and math.isclose(number, expected, rel_tol=_TOLERANCE)


def _users(value: ir.Value, *ops: str) -> list[ir.Node]:
    return [node for node, _ in value.uses() if _standard(node, *ops)]


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The other operand of a binary node; `value` itself where it is both."""
    first, second = node.inputs
    return second if first is value else first


def _float(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].as_float() if name in node.attributes else default


def _relu(view: ModelView, y: ir.Value) -> _Activation | None:
    for node in _users(y, "Relu"):
        return _Activation("relu", node.outputs[0])
    for node in _users(y, "Max"):
        if len(node.inputs) == 2 and _number(view, _other(node, y)) == 0.0:
            return _Activation("relu", node.outputs[0])
    for node in _users(y, "Clip"):
        if node.inputs[0] is y and _clip_bounds(view, node) == (0.0, math.inf):
            return _Activation("relu", node.outputs[0])
    return None


def _clip_bounds(view: ModelView, node: ir.Node) -> tuple[float | None, float | None]:
    bounds: list[float | None] = []
    for index, (name, missing) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        value = node.inputs[index] if index < len(node.inputs) else None
        number = _float(node, name, missing) if value is None else _number(view, value)
        bounds.append(missing if number is not None and abs(number) > _LARGE else number)
    return bounds[0], bounds[1]


def _silu(view: ModelView, y: ir.Value) -> _Activation | None:
    for node in _users(y, "Sigmoid"):
        for product in _users(node.outputs[0], "Mul"):
            if _other(product, node.outputs[0]) is y:
                return _Activation("silu", product.outputs[0])
    for node in _users(y, "Swish"):
        if _float(node, "alpha", 1.0) == 1.0:
            return _Activation("silu", node.outputs[0])
    for node, _ in y.uses():
        if node.domain == "com.microsoft" and node.op_type == "QuickGelu" and _float(node, "alpha", 1.702) == 1.0:
            return _Activation("silu", node.outputs[0])
        if _is_silu_function(view, node):
            return _Activation("silu", node.outputs[0])
    for quotient in _users(y, "Div"):
        if quotient.inputs[0] is y and _is_one_plus_exp_of_minus(view, quotient.inputs[1], y):
            return _Activation("silu", quotient.outputs[0])
    return None


def _is_one_plus_exp_of_minus(view: ModelView, value: ir.Value | None, y: ir.Value) -> bool:
    total = None if value is None else value.producer()
    if total is None or not _standard(total, "Add"):
        return False
    for one, power in (tuple(total.inputs), tuple(total.inputs)[::-1]):
        exponential = None if power is None else power.producer()
        if exponential is None or not _standard(exponential, "Exp") or _number(view, one) != 1.0:
            continue
        minus = None if exponential.inputs[0] is None else exponential.inputs[0].producer()
        if minus is not None and _standard(minus, "Neg") and minus.inputs[0] is y:
            return True
    return False


def _is_silu_function(view: ModelView, node: ir.Node) -> bool:
    """A call of a model-local function whose body is x * sigmoid(x)."""
    function = view.functions.get(node.op_identifier())
    if function is None or len(function.inputs) != 1 or len(function.outputs) != 1 or len(node.inputs) != 1:
        return False
    found = _silu(view, function.inputs[0])
    return found is not None and found.output is function.outputs[0]


def _hard_swish(view: ModelView, y: ir.Value) -> _Activation | None:
    for node in _users(y, "HardSwish"):
        return _Activation("hard_swish", node.outputs[0])
    for node in _users(y, "HardSigmoid"):
        if not _near(_float(node, "alpha", 0.2), 1 / 6) or not _near(_float(node, "beta", 0.5), 0.5):
            continue
        for product in _users(node.outputs[0], "Mul"):
            if _other(product, node.outputs[0]) is y:
                return _Activation("hard_swish", product.outputs[0])
    for shifted in _users(y, "Add"):
        if not _near(_number(view, _other(shifted, y)), 3.0):
            continue
        for clip in _users(shifted.outputs[0], "Clip"):
            low, high = _clip_bounds(view, clip)
            if low == 0.0 and _near(high, 6.0):
                found = _product_over_six(view, y, clip.outputs[0])
                if found is not None:
                    return _Activation("hard_swish", found)
    return None


def _product_over_six(view: ModelView, y: ir.Value, gate: ir.Value) -> ir.Value | None:
    """y * gate / 6 in any order of the two operations."""
    for product in _users(gate, "Mul"):
        if _other(product, gate) is y:
            return _sixth(view, product.outputs[0])
    sixth = _sixth(view, gate)
    if sixth is not None:
        for product in _users(sixth, "Mul"):
            if _other(product, sixth) is y:
                return product.outputs[0]
    return None


def _sixth(view: ModelView, value: ir.Value) -> ir.Value | None:
    for node in _users(value, "Div"):
        if node.inputs[0] is value and _near(_number(view, node.inputs[1]), 6.0):
            return node.outputs[0]
    for node in _users(value, "Mul"):
        if _near(_number(view, _other(node, value)), 1 / 6):
            return node.outputs[0]
    return None


def _leaky_relu(view: ModelView, y: ir.Value) -> _Activation | None:
    for node in _users(y, "LeakyRelu"):
        return _Activation("leaky_relu", node.outputs[0], _float(node, "alpha", 0.01))
    for node in _users(y, "PRelu"):
        slope = None if node.inputs[1] is None else view.folded(node.inputs[1])
        if node.inputs[0] is y and slope is not None and slope.size and np.all(slope == slope.ravel()[0]):
            return _Activation("leaky_relu", node.outputs[0], float(slope.ravel()[0]))
    return None


_SPELLINGS: tuple[Callable[[ModelView, ir.Value], _Activation | None], ...] = (_relu, _silu, _hard_swish, _leaky_relu)
