"""Graphs in which sizes coincide, so that only the axes tell a GroupNorm from a look-alike; and a suite that notices.

Single look-alikes are files, tests/forms/attack_*.onnxtxt and not_*.onnxtxt. Here are the sweeps: one structure over
all factorisations of a shape, all positions of gamma, all orders of axes. The last tests break the recogniser on
purpose and ask whether the property tests would see it.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
import pytest
from forms_reader import FORMS, Form
from generate import group_norm
from helpers import difference, evaluator, group_norm_nodes
from mutate import mutated
from onnx import TensorProto, helper, numpy_helper
from soundness import FAILURES, broken_by_fusing, tolerance
from test_properties import incomplete

import gn_onnx.recognition.transfer as transfer
from gn_onnx import fuse
from gn_onnx.recognition import layout, matching, walk
from gn_onnx.recognition.evaluation import Evaluation, Fact
from gn_onnx.recognition.layout import Dims, Renaming
from gn_onnx.recognition.polynomials import of_size
from gn_onnx.recognition.sizes import Size
from gn_onnx.recognition.transfer import elementwise, moving, normalisations, reductions, slices
from gn_onnx.rewriting import rewrite


class Draft:
    """A few nodes over x, written down quickly."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def const(self, values: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def normalised(self, value: str, axes: tuple[int, ...]) -> str:
        mean = self.add("ReduceMean", value, axes=list(axes))
        centred = self.add("Sub", value, mean)
        variance = self.add("ReduceMean", self.add("Mul", centred, centred), axes=list(axes))
        return self.add("Div", centred, self.add("Sqrt", self.add("Add", variance, self.const(1e-5))))

    def model(self, result: str) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [result], ["y"]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "draft", [x], [y], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return model


def check(draft: Draft, result: str) -> int:
    """The number of nodes that were put in; fails when the numbers changed."""
    verdict = broken_by_fusing(draft.model(result), draft.shape, 1e-5, {}, random.Random(0))
    assert verdict is not None, "the draft is not a valid model"
    assert verdict[0] == ""
    return verdict[1]


def factorisations(n: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (n,)
        return
    for first in range(1, n + 1):
        if n % first == 0:
            for rest in factorisations(n // first, parts - 1):
                yield (first, *rest)


def _axis_subsets(rank: int) -> list[tuple[int, ...]]:
    return [s for k in range(1, rank) for s in itertools.combinations(range(rank), k)]


@pytest.mark.parametrize("target", sorted(set(factorisations(2 * 4 * 4, 3))), ids=str)
def test_every_view_in_three_dimensions_and_every_choice_of_axes(target: tuple[int, ...]) -> None:
    """x [2, 4, 4]: C and L coincide. A view is a GroupNorm exactly where its rows are whole groups of one sample."""
    for axes in _axis_subsets(3):
        draft = Draft((2, 4, 4))
        grouped = draft.add("Reshape", "x", draft.ints(*target))
        back = draft.add("Reshape", draft.normalised(grouped, axes), draft.ints(2, 4, 4))
        gamma = draft.const(np.arange(1, 5).reshape(4, 1))
        check(draft, draft.add("Mul", back, gamma))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_every_order_of_four_equal_axes(order: tuple[int, ...]) -> None:
    """x [4, 4, 4, 4] permuted, grouped in twos along axis 1, permuted back by every permutation."""
    for back_order in itertools.permutations(range(4)):
        draft = Draft((4, 4, 4, 4))
        permuted = draft.add("Transpose", "x", perm=list(order))
        grouped = draft.add("Reshape", permuted, draft.ints(4, 2, 2, 4, 4))
        back = draft.add("Reshape", draft.normalised(grouped, (2, 3, 4)), draft.ints(4, 4, 4, 4))
        returned = draft.add("Transpose", back, perm=list(back_order))
        scaled = draft.add("Mul", returned, draft.const(np.arange(1, 5).reshape(4, 1, 1)))
        check(draft, scaled)


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gamma_along_every_axis_of_equal_size(axis: int, groups: int) -> None:
    draft = Draft((4, 4, 4, 4))
    grouped = draft.add("Reshape", "x", draft.ints(0, groups, -1))
    back = draft.add("Reshape", draft.normalised(grouped, (2,)), draft.ints(4, 4, 4, 4))
    shape = [1, 1, 1, 1]
    shape[axis] = 4
    scaled = draft.add("Mul", back, draft.const(np.arange(1, 5).reshape(shape)))
    count = check(draft, scaled)
    assert count == 1 if axis == 1 else count <= 1


@pytest.mark.parametrize("first", [2, 4], ids="statistics of {} groups".format)
@pytest.mark.parametrize("order", ["repeat", "tile"])
def test_statistics_brought_to_the_channels(first: int, order: str) -> None:
    """[N, G] repeated to [N, C] channel by channel is a GroupNorm, tiled is not; with G = C/G both have the same shapes."""
    draft = Draft((2, 8, 3))
    channels, per_group = 8, 8 // first
    grouped = draft.add("Reshape", "x", draft.ints(2, first, -1))
    mean = draft.add("ReduceMean", grouped, axes=[2])
    centred = draft.add("Sub", grouped, mean)
    variance = draft.add("ReduceMean", draft.add("Mul", centred, centred), axes=[2])
    root = draft.add("Sqrt", draft.add("Add", variance, draft.const(1e-5)))

    def spread(value: str) -> str:
        between = (2, first, 1) if order == "repeat" else (2, 1, first)
        shaped = draft.add("Reshape", value, draft.ints(*between))
        wide = draft.add("Expand", shaped, draft.ints(2, max(between[1], per_group if order == "tile" else 1),
                                                      max(between[2], per_group if order == "repeat" else 1)))  # fmt: skip
        return draft.add("Reshape", wide, draft.ints(2, channels, 1))

    result = draft.add("Div", draft.add("Sub", "x", spread(mean)), spread(root))
    assert check(draft, result) == (1 if order == "repeat" else 0)


# --- a deliberately wrong rule turns the suite red ----------------------------------------------------------------------


def _wrong(function: transfer.TransferFunction, change: Callable[[Evaluation, Fact], Fact]) -> transfer.TransferFunction:
    def apply(evaluation: Evaluation, node, depth: int):
        result = function(evaluation, node, depth)
        return change(evaluation, result) if isinstance(result, Fact) else result

    return apply


def _scaled(factor: float) -> Callable[[Evaluation, Fact], Fact]:
    from gn_onnx.recognition.polynomials import constant

    return lambda evaluation, fact: Fact(evaluation.algebra.multiply(fact.poly, constant(factor)), fact.dims)


def _caught(cases: int = 60, mutants: int = 6) -> bool:
    """Whether completeness or soundness fails on the first few seeds."""
    for seed in range(cases):
        rng = random.Random(seed)
        case = group_norm(rng)
        if incomplete(case):
            return True
        for _ in range(mutants):
            change = mutated(case.model, rng)
            if change is None:
                continue
            verdict = broken_by_fusing(change[0], case.truth.x_shape, case.truth.epsilon, case.inputs, rng)
            if verdict is not None and verdict[0]:
                return True
    return False


@pytest.mark.parametrize(
    ("operator", "replacement"),
    [
        ("ReduceMean", _wrong(reductions.TABLE["ReduceMean"], _scaled(1.01))),  # the divisor of the variance
        ("ReduceSum", reductions.TABLE["ReduceMean"]),
        ("Sub", elementwise.TABLE["Add"]),  # a sign
        ("Div", elementwise.TABLE["Mul"]),
        ("Neg", elementwise.TABLE["Identity"]),
        ("Abs", elementwise.TABLE["Identity"]),  # a guard that acts
        ("Relu", elementwise.TABLE["Identity"]),
        ("Sqrt", elementwise.TABLE["Identity"]),
        ("Transpose", elementwise.TABLE["Identity"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_rule_is_noticed(
    operator: str, replacement: transfer.TransferFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(transfer.TRANSFER, operator, replacement)
    assert _caught(), f"the property tests do not see a wrong {operator}"


def _tails_first(dims: Dims, target: Sequence[Size]) -> tuple[Dims, Renaming]:
    """A Reshape that hands out axes from the last one on."""
    found, renaming = layout.regroup(tuple(dim[::-1] for dim in dims[::-1]), target[::-1])
    return found[::-1], renaming


@pytest.mark.parametrize(
    ("module", "name", "replacement"),
    [
        (moving, "regroup", _tails_first),
        (moving, "resolve_target", lambda dims, target, *, allow_zero: [Size.of(1) if s.is_zero else s for s in target]),
        (elementwise, "broadcast", lambda evaluation, fact, other: fact),
        (reductions, "of_size", lambda size: of_size(Size.of(2) * size)),
        (matching, "_check_along_channels", lambda dims, what, poly, axis: None),
        (walk.Walk, "leads_only_to", lambda self, value, later: True),
        (normalisations, "mean_over", lambda e, fact, reduced, **k: reductions.mean_over(e, fact, list(reduced)[:-1], **k)),
        (slices, "_stacked", lambda coefficients, outer: coefficients[0]),
        (rewrite, "_with_current_values", lambda group_norm, replaced: group_norm),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_step_is_noticed(module: object, name: str, replacement: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the forms or by random graphs: what is fused computes something else, or no longer fuses, or fails."""
    monkeypatch.setattr(module, name, replacement)
    assert _noticed(), f"the suite does not see a wrong {name}"


def test_the_recogniser_as_it_is_gives_nothing_to_notice() -> None:
    assert not _noticed()


def _noticed() -> bool:
    return any(map(_counts_differ, FORMS)) or any(map(_numbers_differ, FORMS)) or _caught()


def _counts_differ(form: Form) -> bool:
    try:
        return len(group_norm_nodes(fuse(form.model).model)) not in form.counts
    except Exception:  # a broken recogniser may do anything
        return True


def _numbers_differ(form: Form) -> bool:
    result = fuse(form.model)
    if not result.fused:
        return False
    feeds = form.feeds("large mean")
    try:
        return not difference(evaluator(result.model).run(feeds), evaluator(form.model).run(feeds)) <= tolerance(form.model)
    except FAILURES:
        return True


def test_a_wrong_epsilon_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = matching.variance_of

    def doubled(evaluation: Evaluation, index: int):
        variance = honest(evaluation, index)
        return dataclasses.replace(variance, epsilon=2 * variance.epsilon)

    monkeypatch.setattr(matching, "variance_of", doubled)
    assert _caught(cases=5)


def test_the_honest_recogniser_is_not_accused() -> None:
    assert not _caught(cases=10, mutants=2)
    assert group_norm_nodes(fuse(group_norm(random.Random(0)).model).model)
