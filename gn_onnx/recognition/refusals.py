"""Why nothing that follows from a candidate x is a GroupNorm: the first operation that broke the proof."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

import onnx_ir as ir

from gn_onnx.group_norm import Rejection
from gn_onnx.recognition.evaluation import Fact
from gn_onnx.recognition.model_view import STANDARD_DOMAINS
from gn_onnx.recognition.polynomials import THE_X, Log, Moment, Root, Tensor
from gn_onnx.recognition.roots import LAYOUT_ONLY, MEANS
from gn_onnx.recognition.sites import QUANTISED_INSIDE
from gn_onnx.recognition.walk import Walk, producer

_MAX_STEPS_BACK = 8
_SHAPES_A_DIVISOR = {"Sqrt", "Pow", "Exp", "Log", "Max", "Clip", "Abs"}
_ASIDE = {
    "Shape",
    "Size",
    "Less",
    "LessOrEqual",
    "Greater",
    "GreaterOrEqual",
    "Equal",
    "Not",
    "And",
    "Or",
    "Xor",
    "IsNaN",
    "IsInf",
}
"""Not followed, and no reason by themselves: what is done with their results is."""
_NORMALISES = {"InstanceNormalization", "LayerNormalization", "GroupNormalization", "GroupNorm", "SkipGroupNorm"}

ROOT_TAKEN, NORMALISED, IN_OWN_LAYOUT = 1, 2, 3
"""How far a proof got: a root of something; x divided by it; and that brought back to the layout of x."""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A rejection and how far the proof got: of several candidates for x, the best one explains."""

    progress: int
    rejection: Rejection
    nodes: frozenset[ir.Node] = frozenset()


def rejection(node: ir.Node, reason: str, reached: str = "") -> Rejection:
    """A rejection that names the node."""
    return Rejection(reason, node.name or "", node.op_type, node.outputs[0].name or "", reached)


def refusals(walk: Walk, covered: AbstractSet[ir.Node]) -> list[Refusal]:
    """Why nothing of this walk is a GroupNorm, nodes of other GroupNorms aside; empty when nothing of it looks like one."""
    return [dataclasses.replace(r, rejection=_with_defaults(walk, r.rejection)) for r in _refusals(walk, covered)]


def _with_defaults(walk: Walk, found: Rejection) -> Rejection:
    """Names the input of the graph, if there is one, that would be a constant if no caller could feed another."""
    node = next((n for n in walk.followed if n.outputs and (n.outputs[0].name or "") == found.value), None)
    used = [] if node is None else [v for v in node.inputs if v is not None]
    polys = [walk.evaluation.facts[v].poly for v in used if v in walk.evaluation.facts]
    used += [f.key for p in polys for m in p for f, _ in m if isinstance(f, Tensor) and isinstance(f.key, ir.Value)]
    names = [v.name for v in used if v.is_initializer() and v.is_graph_input()]
    if not names:
        return found
    advice = f"{names[0]!r} is an input with a default value, no constant (fuse --freeze-defaults makes it one)"
    return dataclasses.replace(found, reason=f"{found.reason}; {advice}")


def _refusals(walk: Walk, covered: AbstractSet[ir.Node]) -> list[Refusal]:
    evaluation = walk.evaluation
    nodes = frozenset(node for value in evaluation.facts if (node := value.producer()) is not None)
    theirs = _of_others(walk, covered)
    open_ends = [value for value in walk.mismatches if value not in theirs]
    normalised = [value for value in open_ends if _holds_x(evaluation.facts[value])]
    own = [value for value in normalised if evaluation.facts[value].dims == evaluation.dims]
    if normalised:
        value = (own or normalised)[0]
        reached = evaluation.algebra.show(evaluation.facts[value].poly)
        broken = _first_broken(walk, evaluation.facts[value])
        if _reads_quantised(walk, evaluation.facts[value]):
            found = rejection(producer(value), QUANTISED_INSIDE, reached)
        elif broken is None:
            reason = _other_mean_than_own(walk) if walk.mismatches[value].uncentred else None
            found = rejection(producer(_first_at(walk, value)), reason or str(walk.mismatches[value]), reached)
        else:
            found = rejection(producer(broken), evaluation.broken[broken], reached)
        return [Refusal(IN_OWN_LAYOUT if own else NORMALISED, found, nodes)]
    for value in open_ends:
        if _normalises_another(evaluation.facts[value]):
            reason = "another tensor is normalised with the statistics of this one"
            found = rejection(producer(value), reason, evaluation.algebra.show(evaluation.facts[value].poly))
            return [Refusal(ROOT_TAKEN, found, nodes)]
    steps = [(n, why) for n, why in walk.broken if n.op_type not in _ASIDE and not theirs.intersection(n.inputs)]
    for node, reason in steps:
        if node.op_type in _SHAPES_A_DIVISOR and any(
            _is_variance(evaluation.facts.get(v)) for v in node.inputs if v is not None
        ):
            return [Refusal(ROOT_TAKEN, rejection(node, reason), nodes)]
    for node, reason in steps:
        if node.op_type in _NORMALISES:
            return [Refusal(ROOT_TAKEN, rejection(node, reason), nodes)]
        facts = [evaluation.facts[v] for v in node.inputs if v in evaluation.facts]
        rooted = [f for f in facts if any(isinstance(factor, Root | Log) for m in f.poly for factor, _ in m)]
        if rooted:
            return [Refusal(ROOT_TAKEN, rejection(node, reason, evaluation.algebra.show(rooted[0].poly)), nodes)]
    for value, fact in evaluation.facts.items():
        graphs = {node.graph for node, _ in value.uses()}
        if graphs - {value.graph} and any(isinstance(factor, Root) for m in fact.poly for factor, _ in m):
            reason = (
                "the deviation is used inside of a branch or a loop: normalise outside of it, or take the statistics inside"
            )
            found = rejection(producer(value), reason, evaluation.algebra.show(fact.poly))
            return [Refusal(ROOT_TAKEN, found, nodes)]
    return []


def _of_others(walk: Walk, covered: AbstractSet[ir.Node]) -> set[ir.Value]:
    """Normalised values of GroupNorms that were found, and what becomes of them."""
    theirs: set[ir.Value] = set()
    for value, fact in walk.evaluation.facts.items():
        node = value.producer()
        normalised = _holds_x(fact) and any(isinstance(factor, Root) for m in fact.poly for factor, _ in m)
        if node is not None and normalised and (node in covered or theirs.intersection(node.inputs)):
            theirs.add(value)
    return theirs


def _other_mean_than_own(walk: Walk) -> str | None:
    """Where what was divided is a deviation already, but not from its own mean: from whose."""
    node = walk.evaluation.root.producer()
    if node is None or node.domain not in STANDARD_DOMAINS or node.op_type != "Sub":
        return None
    minuend, mean = _before_moves(node.inputs[0]), _before_moves(node.inputs[1], ("Expand", "Tile"))
    reduction = mean[-1].producer() if mean else None
    if not minuend or reduction is None or reduction.op_type not in MEANS:
        return None
    averaged = _before_moves(reduction.inputs[0])
    if not averaged or averaged[-1] is not minuend[-1]:
        return "the mean that is subtracted is that of another tensor"
    repeated = [producer(v).op_type for v in mean[:-1] if producer(v).op_type in ("Expand", "Tile")]
    if repeated:
        return f"the mean is repeated by {repeated[0]} to sizes that are not known to be those of x: subtract it as it is"
    exact, types = walk.view.dtype(averaged[0]), [walk.view.dtype(v) for v in minuend]
    rounded = next((t for t in types if t is not None and exact is not None and t.itemsize < exact.itemsize), None)
    return None if rounded is None else f"the mean is that of x before it was rounded to {rounded.name}: cast x first"


def _before_moves(value: ir.Value | None, also: tuple[str, ...] = ()) -> list[ir.Value]:
    """A value and those that it was cast or moved from (or what it is made of by operators of `also`), one by one."""
    found: list[ir.Value] = []
    while value is not None:
        found.append(value)
        node = value.producer()
        if node is None or node.domain not in STANDARD_DOMAINS or node.op_type not in (*LAYOUT_ONLY, *also):
            break
        value = node.inputs[0]
    return found


def _first_at(walk: Walk, value: ir.Value) -> ir.Value:
    """Where the expression that the mismatch of `value` is about was computed first."""
    at = walk.mismatches[value].at
    if not at:
        return value
    algebra, facts = walk.evaluation.algebra, walk.evaluation.facts
    made = (v for v, fact in facts.items() if fact.poly.keys() == at.keys() and v.producer() is not None)
    return next((v for v in made if not algebra.add(facts[v].poly, at, -1.0)), value)


def _first_broken(walk: Walk, fact: Fact) -> ir.Value | None:
    """The first value on the way from x to a tensor in the expression that an operation made unreadable."""
    return next((v for tensor in _tensors(walk, fact) if (v := _broken_before(walk, tensor)) is not None), None)


def _reads_quantised(walk: Walk, fact: Fact) -> bool:
    producers = [tensor.producer() for tensor in _tensors(walk, fact)]
    return any(node is not None and node.op_type == "DequantizeLinear" for node in producers)


def _tensors(walk: Walk, fact: Fact) -> Iterator[ir.Value]:
    """The tensors of the graph in an expression, those under its roots too."""
    polys, seen = [fact.poly], set()
    for poly in polys:
        for factor in sorted((f for m in poly for f, _ in m), key=str):
            if isinstance(factor, Root) and factor not in seen:
                seen.add(factor)
                polys.append(walk.evaluation.algebra.roots[factor.index])
            if isinstance(factor, Tensor) and isinstance(factor.key, ir.Value):
                yield factor.key


def _broken_before(walk: Walk, value: ir.Value) -> ir.Value | None:
    first, frontier = None, [value]
    for _ in range(_MAX_STEPS_BACK):
        found = (v for v in frontier if v in walk.evaluation.broken and producer(v).op_type not in _ASIDE)
        first = next(found, first)
        nodes = [node for v in frontier if (node := v.producer()) is not None]
        frontier = [v for node in nodes for v in node.inputs if v is not None and v not in walk.evaluation.facts]
    return first


def _is_variance(fact: Fact | None) -> bool:
    return fact is not None and any(isinstance(f, Moment) and f.power == 2 for m in fact.poly for f, _ in m)


def _normalises_another(fact: Fact) -> bool:
    return any(
        any(isinstance(f, Root) and e < 0 for f, e in m) and any(isinstance(f, Tensor) and len(f.atoms) > 2 for f, _ in m)
        for m in fact.poly
    )


def _holds_x(fact: Fact) -> bool:
    return any(f == THE_X for m in fact.poly for f, _ in m)
