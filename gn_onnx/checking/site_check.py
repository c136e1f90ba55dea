"""Does each fused node compute what the nodes before fusing computed? Decided in float64, site by site.

A site is a node of the fused model that is not in the original. Its input x and its output y have names that
the original knows too. The nodes between x and y are cut out of both models and evaluated in float64 on the
same random x, one third of whose groups are ordinary, one third nearly constant, one third far from zero.
Rounding plays no part, so that a wrong epsilon, axis, group or scale stands out by orders of magnitude.
Imports: numpy, onnx.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from gn_onnx.checking import concrete_shapes, tolerances
from gn_onnx.checking.scope import CannotEvaluate, Scope, iterate, scopes
from gn_onnx.checking.site_inputs import random_groups
from gn_onnx.checking.subgraph import Evaluator, Piece, cut_out
from gn_onnx.group_norm import DOMAIN

_MAX_ELEMENTS = 1 << 25
"""Of x in one evaluation: 256 MB in float64."""


@dataclasses.dataclass(frozen=True)
class SiteCheck:
    """What was found for one site.

    Attributes:
        name: Node name in the fused model, or its output's.
        op_type: Operator of the node.
        output: The value that both models compute.
        status: "equal", "different", or "not checked".
        error: Largest |difference| in float64, relative to the channel's largest |value|.
        tolerance: What was allowed.
        reason: Why it was not checked, or where the largest difference is.
        site: The pieces that were compared, where they could be cut out.
    """

    name: str
    op_type: str
    output: str
    status: str
    error: float = math.nan
    tolerance: float = math.nan
    reason: str = ""
    site: Site | None = dataclasses.field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, object]:
        fields = dataclasses.fields(self)
        return {field.name: getattr(self, field.name) for field in fields if field.name != "site"}


def check_sites(
    original: onnx.ModelProto,
    fused: onnx.ModelProto,
    *,
    input_shapes: Mapping[str, tuple[int, ...]],
    folder: pathlib.Path | None = None,
    fused_folder: pathlib.Path | None = None,
    known_shapes: Mapping[str, tuple[int, ...]] | None = None,
    seconds: float = 20.0,
    seed: int = 0,
) -> list[SiteCheck]:
    """Check every node that fusing made.

    Args:
        original: The model before fusing.
        fused: The model after.
        input_shapes: A concrete shape for each graph input.
        folder: Folder of the original's external data.
        fused_folder: Folder of the fused model's, by default the same.
        known_shapes: Shapes of values that inference does not find, by name.
        seconds: Time to spend; sites that are left then are "not checked", unless they are small.
        seed: Of the random tensors.

    Returns:
        One record per fused node, in graph order.
    """
    deadline = time.monotonic() + seconds
    shapes = concrete_shapes.concrete_shapes(original, input_shapes) | dict(known_shapes or {})
    before = scopes(original, shapes, folder)
    after = scopes(fused, shapes, fused_folder or folder)
    types = concrete_shapes.element_types(original) | concrete_shapes.element_types(fused)
    evaluator = Evaluator()
    results = []
    for key, scope, node in iterate(after):
        if not is_group_norm(node) or key[:2] == ("function", DOMAIN):
            continue
        old = before.get(key)
        try:
            if old is None:
                raise CannotEvaluate("the original has no such subgraph")
            if _is_unchanged(node, old):
                continue
            if time.monotonic() > deadline:
                raise CannotEvaluate("out of time")
            site = Site(node, old, scope, original, fused, shapes)
            results.append(site.check(evaluator, types, np.random.default_rng(seed)))
        except CannotEvaluate as error:
            name = node.name or node.output[0]
            results.append(SiteCheck(name, node.op_type, node.output[0], "not checked", reason=str(error)))
    return results


def is_group_norm(node: onnx.NodeProto) -> bool:
    """One of our operators, or ONNX's own."""
    if node.domain == DOMAIN:
        return node.op_type.startswith("GroupNormalization")
    return node.domain in ("", "ai.onnx") and node.op_type == "GroupNormalization"


def _is_unchanged(node: onnx.NodeProto, old: Scope) -> bool:
    index = old.producer.get(node.output[0])
    return index is not None and old.nodes[index] == node


class Site:
    """One fused node and the two pieces around it, `before` and `after`, that compute `output` from `x`."""

    def __init__(
        self,
        node: onnx.NodeProto,
        old: Scope,
        new: Scope,
        original: onnx.ModelProto,
        fused: onnx.ModelProto,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.node = node
        self.shapes = shapes
        self.output = _shared_output(node, old, new)
        self.x = _behind_casts(_shared_input(node, self.output, old, new), old, new)
        memos: tuple[dict[str, bool], dict[str, bool]] = ({}, {})

        def leaf_of(scope: Scope, other: Scope, memo: dict[str, bool], name: str) -> bool:
            if name == self.x:
                return True
            if name == self.output or not scope.varies(name) or not other.defines(name):
                return False
            return not scope.depends(name, self.x, memo)

        self.before = cut_out(old, self.output, lambda name: leaf_of(old, new, memos[0], name), original)
        self.after = cut_out(new, self.output, lambda name: leaf_of(new, old, memos[1], name), fused)
        self.attributes = {attribute.name: attribute for attribute in node.attribute}
        self.num_groups = int(self.attributes["num_groups"].i) if "num_groups" in self.attributes else 1
        self.channels_last = "ChannelsLast" in node.op_type
        made = new.home(node.input[0])
        unsqueezed = made.nodes[made.producer[node.input[0]]] if node.input[0] in made.producer else None
        self.one_sample = unsqueezed is not None and unsqueezed.op_type == "Unsqueeze" and self.x == unsqueezed.input[0]
        """x is a sample, which the node is given as a batch of one."""

    def check(self, evaluator: Evaluator, types: Mapping[str, int], rng: np.random.Generator) -> SiteCheck:
        dtype = _dtype(types, (self.x, *self.node.input[1:], self.output))
        tolerance, unit = tolerances.site_tolerance(dtype), tolerances.UNIT.get(tolerances.name_of(dtype), 0.0)
        worst, where = 0.0, ""
        axis = -1 if self.channels_last else 1
        for leaves in self._inputs(evaluator, rng):
            expected = evaluator.run(self.before, leaves)
            actual = evaluator.run(self.after, leaves)
            if expected.shape != actual.shape:
                worst, where = math.inf, f"shape {list(expected.shape)} became {list(actual.shape)}"
                break
            error, place = _largest_difference(expected, actual, axis)
            if error > tolerance:
                error, place = self._largest_beyond_rounding(evaluator, leaves, expected, actual, unit)
            if not error <= worst:
                worst, where = error, f"at {place}"
        return SiteCheck(
            name=self.node.name or self.node.output[0],
            op_type=self.node.op_type,
            output=self.output,
            status="equal" if worst <= tolerance else "different",
            error=worst,
            tolerance=tolerance,
            reason=where if worst > tolerance else "",
            site=self,
        )

    def _largest_beyond_rounding(
        self,
        evaluator: Evaluator,
        leaves: Mapping[str, np.ndarray],
        expected: np.ndarray,
        actual: np.ndarray,
        unit: float,
    ) -> tuple[float, tuple[int, ...]]:
        """`_largest_difference` of what rounding scale and bias to the type of x does not explain, element by element.

        Where they nearly cancel, or an activation makes the result small, their rounding may be large beside it.
        """
        explained = np.zeros_like(actual)
        node = next((n for n in reversed(self.after.model.graph.node) if is_group_norm(n)), None)
        for name in () if node is None else node.input[1:3]:
            value = self.after.feeds.get(name)
            if isinstance(value, np.ndarray):
                moved = dataclasses.replace(self.after, feeds={**self.after.feeds, name: value * (1 + 1.01 * unit)})
                explained += np.abs(evaluator.run(moved, leaves) - actual)
        difference = np.where(actual == expected, 0.0, actual - expected)
        rest = np.sign(difference) * np.maximum(np.abs(difference) - explained, 0.0)
        return _largest_difference(expected, expected + rest, -1 if self.channels_last else 1)

    def _inputs(self, evaluator: Evaluator, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
        shape, others = self._leaf_shapes(evaluator, rng)
        if math.prod(shape) > _MAX_ELEMENTS:
            raise CannotEvaluate(f"x of shape {list(shape)} is too large to evaluate in float64")
        epsilon = self.attributes["epsilon"].f if "epsilon" in self.attributes else 1e-5
        # With fewer than three statistics, each kind of data needs a run of its own.
        batch = (1, *shape) if self.one_sample else shape
        rounds = 1 if batch[0] * self.num_groups >= 3 else 3
        for first in range(rounds):
            x = random_groups(batch, self.num_groups, epsilon, rng, first_kind=first, channels_last=self.channels_last)
            yield {self.x: x.reshape(shape)} | others

    def _leaf_shapes(self, evaluator: Evaluator, rng: np.random.Generator) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
        names = dict.fromkeys((*self.before.leaves, *self.after.leaves))
        others = {}
        for name in names:
            if name == self.x:
                continue
            if name not in self.shapes:
                raise CannotEvaluate(f"the shape of {name!r} is not known")
            others[name] = rng.uniform(0.5, 1.5, self.shapes[name])
        if self.shapes.get(self.x):
            return self.shapes[self.x], others
        for guess in _guesses(self.after, self.node, self.channels_last):
            try:
                for piece in (self.before, self.after):
                    evaluator.run(piece, {self.x: rng.standard_normal(guess)} | others)
            except CannotEvaluate:
                continue
            return guess, others
        raise CannotEvaluate(f"the shape of {self.x!r} is not known")


def _shared_input(node: onnx.NodeProto, output: str, old: Scope, new: Scope) -> str:
    """x of the node; where fusing made x (a Cast, a Transpose), what that was made of.

    So too where the original's output is not computed from it: a SkipGroupNorm makes both.
    """
    name = str(node.input[0])
    while not old.defines(name) or not old.depends(output, name, {}):
        home = new.home(name)
        if name not in home.producer:
            if old.defines(name):
                break
            raise CannotEvaluate(f"the original has no value {name!r}")
        sources = [str(source) for source in home.nodes[home.producer[name]].input if new.varies(source)]
        # Of x + f(x), f(x): with x as the input, f would be part of the site.
        last = (
            v
            for v in sources
            if not any(scope.depends(other, v, {}) for scope in (old, new) for other in sources if other != v)
        )
        name = next(last, sources[0] if sources else name)
    return name


def _behind_casts(name: str, old: Scope, new: Scope) -> str:
    """What a cast x was cast from: the original may use several equal casts of it, the fused node only one."""
    while True:
        made = [scope.nodes[scope.producer[name]] for scope in (old, new) if name in scope.producer]
        if len(made) < 2 or made[0].op_type not in ("Cast", "Identity") or made[0].input[0] != made[1].input[0]:
            return name
        name = str(made[0].input[0])


def _shared_output(node: onnx.NodeProto, old: Scope, new: Scope) -> str:
    """The node's output, or the first value computed from it that the original has too."""
    pending: list[str] = list(node.output[:1])
    while pending:
        name = str(pending.pop(0))
        if old.defines(name):
            return name
        pending.extend(out for user in new.nodes if name in user.input for out in user.output[:1])
    raise CannotEvaluate("the original has no value of the name of its output")


def _guesses(after: Piece, node: onnx.NodeProto, channels_last: bool) -> list[tuple[int, ...]]:
    """Shapes to try where inference knows none: in a function, the caller decides."""
    sizes = [value.size for value in after.feeds.values() if isinstance(value, np.ndarray)]
    channels = max(sizes, default=1)
    spatial: Sequence[tuple[int, ...]] = ((6, 5), (7,), (3, 4, 5), ())
    return [(2, *s, channels) if channels_last else (2, channels, *s) for s in spatial] if channels > 1 else []


def _dtype(types: Mapping[str, int], names: Sequence[str]) -> np.dtype[np.generic]:
    for name in names:
        if name in types:
            return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(types[name]))
    return np.dtype(np.float32)


def _largest_difference(expected: np.ndarray, actual: np.ndarray, axis: int) -> tuple[float, tuple[int, ...]]:
    """Largest |difference| relative to the largest |value| of its channel, and its index. NaN equals NaN only."""
    if not expected.size:
        return 0.0, ()
    with np.errstate(invalid="ignore"):
        same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
        difference = np.where(same, 0.0, np.abs(expected - actual))
    difference = np.where(np.isnan(difference), np.inf, difference)
    others = tuple(i for i in range(expected.ndim) if i != axis % max(expected.ndim, 1))
    finite = np.where(np.isfinite(expected), np.abs(expected), 0.0)
    scale = finite.max(axis=others, keepdims=True)
    scale = np.maximum(scale, 1e-3 * finite.max() + 1e-300)
    relative = difference / scale
    index = np.unravel_index(int(np.argmax(relative)), relative.shape)
    return float(relative[index]), tuple(int(i) for i in index)
