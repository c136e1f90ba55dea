"""Which of the values that are a GroupNorm of x become one node, and the record of each.

Of a chain of yes answers the last one counts that takes the whole chain with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import onnx_ir as ir

from gn_onnx.group_norm import GroupNorm
from gn_onnx.recognition.evaluation import same_values
from gn_onnx.recognition.layout import dim_size, permutation
from gn_onnx.recognition.matching import Match
from gn_onnx.recognition.roots import STATISTICS
from gn_onnx.recognition.walk import Walk, producer

_NATIVE = {"GroupNormalization", "GroupNorm"}
ALREADY_ONE_NODE = {"InstanceNormalization", "LayerNormalization"}

OF_WEIGHTS = "weights are standardised here, not activations"
QUANTISED_INSIDE = "values inside of the GroupNorm are quantised: fuse before quantising, or exclude its nodes from it"


@dataclasses.dataclass(frozen=True)
class Site:
    """A GroupNorm and the nodes that compute it; `left_alone` says why it stays as it is ("" needs no word)."""

    group_norm: GroupNorm
    nodes: frozenset[ir.Node]
    left_alone: str | None
    trivial: bool
    """As many groups as channels and no affine: a piece of almost any normalisation, in some layout."""
    x_was_multiplied: bool
    """A nearer x, the multiple itself, is to be preferred."""


def find_sites(walk: Walk, *, only: bool) -> list[Site]:
    """The GroupNorms of x: of every chain of yes answers, the last that all uses of the earlier ones lead to."""
    order = walk.view.position
    answers = sorted(_usable(walk, only=only), key=lambda v: order[producer(v)])
    chosen: list[ir.Value] = []
    behind: set[ir.Value] = set()
    for value in answers:
        if value in behind:
            continue
        current = value
        for later in answers:
            if order[producer(later)] <= order[producer(current)] or _is_normalised_again(walk, current, later):
                continue
            if _is_permuted(walk, current) != _is_permuted(walk, later):
                continue  # that is a Transpose of the result
            if walk.leads_only_to(current, later):
                current = later
        behind |= walk.descendants(value)
        if not _is_other_normalisation(walk, current):
            chosen.append(current)
    return [site_of(walk, value) for value in chosen]


def find_views(walk: Walk) -> list[ir.Value]:
    """The GroupNorms of x in another shape that may not be meant as such: they are where another one goes on from them."""
    usable = set(_usable(walk, only=False))
    return [value for value in walk.matches if value not in usable and _can_be_written(walk, value)]


def _is_normalised_again(walk: Walk, value: ir.Value, later: ir.Value) -> bool:
    """Whether statistics of the result are taken on the way: that their mean is 0 does not make them part of it."""
    before = set(walk.nodes_between(value))
    return any(node.op_type in STATISTICS for node in walk.nodes_between(later) if node not in before)


def _usable(walk: Walk, *, only: bool) -> Iterable[ir.Value]:
    for value, answer in walk.matches.items():
        if _can_be_written(walk, value) and _is_clear(walk, value, answer, only=only):
            yield value


def _can_be_written(walk: Walk, value: ir.Value) -> bool:
    """Whether the types fit, and all is known that a node needs."""
    if walk.dtypes.get(value) != walk.dtypes[walk.evaluation.root] or not _known_outside(walk, walk.matches[value]):
        return False
    call = producer(value)
    if call.op_identifier() in walk.view.functions and any(_is_used(v) for v in call.outputs if v is not value):
        return False  # the call would stay for its other results: the node belongs into the function
    if _is_permuted(walk, value):
        return True
    shape = _x_shape(walk, value)
    bound = bool(walk.evaluation.bindings)  # a size that was concluded is not written into the model
    return shape is None or not (bound or shape.count(-1) > 1)


def _is_permuted(walk: Walk, value: ir.Value) -> bool:
    return permutation(walk.evaluation.dims, walk.evaluation.facts[value].dims) is not None


def _is_used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _is_clear(walk: Walk, value: ir.Value, answer: Match, *, only: bool) -> bool:
    """Whether a result in another shape than x is a GroupNorm in that shape, not just on the way back to x's own.

    It is in x's own shape, and where there are groups of channels, or a scale that tells which axis the channels are, or
    where x is all that is to be seen (a tensor out of a quantised part) and only its last axis is unfolded.
    """
    if walk.evaluation.facts[value].dims == walk.evaluation.dims:
        return True
    if answer.has_affine or answer.num_groups != answer.num_channels:
        return True
    return only and walk.evaluation.facts[value].dims[:2] == walk.evaluation.dims[:2]


def _known_outside(walk: Walk, answer: Match) -> bool:
    container = walk.evaluation.root.graph
    for term in (*answer.scale.terms, *answer.bias.terms):
        for value in term[1]:
            if value.graph in walk.view.body_of and value.graph is not container:
                return False
    return True


def _is_other_normalisation(walk: Walk, value: ir.Value) -> bool:
    """Whether a fixed scale along other axes follows: then the axis that was taken for the channels is none."""
    if walk.matches[value].has_affine:
        return False
    dims = walk.evaluation.facts[value].dims
    behind = (v for v in walk.descendants(value) if v in walk.mismatches)
    return any(walk.mismatches[v].elsewhere and walk.evaluation.facts[v].dims == dims for v in behind)


def site_of(walk: Walk, value: ir.Value) -> Site:
    """The record of one value that is a GroupNorm of x."""
    answer, root = walk.matches[value], walk.evaluation.root
    x, x_perm = _source(walk, value)
    nodes = walk.nodes_between(value)
    if x is not root:
        before = set(walk.nodes_between(x))
        nodes = [node for node in nodes if node not in before]
    rank = len(walk.evaluation.facts[value].dims)
    dtype = walk.dtypes[root] or ir.DataType.FLOAT
    core = next((n for n in nodes if n.op_type.endswith(("Normalization", "GroupNorm"))), None)
    core = core or next((n for n in nodes if n.op_type.startswith(("Reduce", "Global"))), producer(value))
    group_norm = GroupNorm(
        x=x,
        output=value,
        x_perm=x_perm,
        x_shape=_x_shape(walk, value),
        num_groups=answer.num_groups,
        epsilon=answer.epsilon,
        scale=answer.scale,
        bias=answer.bias,
        dtype=dtype,
        rank=rank,
        one_sample=answer.one_sample,
        sizes=_sizes(walk, value),
        num_channels=answer.num_channels,
        stash_type=11 if dtype == ir.DataType.DOUBLE else 1,
        channels_last=answer.channel_axis == rank - 1 + answer.one_sample and rank + answer.one_sample > 2,
        core=core.op_type,
        native=len(nodes) == 1 and nodes[0].op_type in _NATIVE,
        shaped_like_x=tuple(v for v in walk.evaluation.facts if x_perm is None and _has_shape_of(walk, v, x, nodes)),
        node_names=tuple(n.name or "" for n in nodes),
    )
    left_alone = None
    if len(nodes) == 1 and nodes[0].op_type in ALREADY_ONE_NODE:
        left_alone = QUANTISED_INSIDE if _is_view_of_quantised(root) else ""
    elif _are_weights(value):
        left_alone = OF_WEIGHTS
    elif group_norm.x_shape is None and _is_layer_norm(walk, answer, nodes, rank):
        left_alone = "a LayerNorm: the statistics of each position, over the last axis"
    trivial = answer.num_groups == answer.num_channels and not answer.has_affine
    return Site(group_norm, frozenset(nodes), left_alone, trivial, answer.x_was_multiplied)


def _is_view_of_quantised(value: ir.Value) -> bool:
    """Whether a Reshape's result was quantised and is read back here: groups that somebody formed."""
    node = value.producer()
    for expected in ("DequantizeLinear", "QuantizeLinear", "Reshape"):
        if node is None or node.op_type != expected:
            return False
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return True


def _has_shape_of(walk: Walk, value: ir.Value, x: ir.Value, nodes: list[ir.Node]) -> bool:
    return value.producer() in nodes and walk.evaluation.facts[value].dims == walk.evaluation.facts[x].dims


def _source(walk: Walk, value: ir.Value) -> tuple[ir.Value, tuple[int, ...] | None]:
    """What the node takes: x, or x in the layout of the result, and the Transpose that has to be made of it."""
    facts, root, position = walk.evaluation.facts, walk.evaluation.root, walk.view.position
    earliest = min(same_values(root), key=lambda v: -1 if v.producer() is None else position[producer(v)])
    perm = permutation(walk.evaluation.dims, facts[value].dims)
    if perm is None:
        return earliest, None
    for other, fact in facts.items():
        node = other.producer()
        if node is None or node.op_type != "Transpose" or fact.dims != facts[value].dims:
            continue
        same_type = walk.dtypes[other] == walk.dtypes[root]
        if same_type and walk.is_x(other) and position[node] < position[producer(value)]:
            return other, None
    return earliest, perm


def _sizes(walk: Walk, value: ir.Value) -> tuple[int | None, ...] | None:
    """As inferred, unless the inference took another rank for it (in bodies, ONNX's does so now and then)."""
    sizes = walk.view.shape(value)
    if sizes is None or len(sizes) != len(walk.evaluation.facts[value].dims):
        return None
    return tuple(size.static for size in sizes)


def _x_shape(walk: Walk, value: ir.Value) -> tuple[int, ...] | None:
    """What x has to be reshaped to first (0: as it is, -1: the rest); None where the output has x's own shape."""
    dims, own = walk.evaluation.facts[value].dims, walk.evaluation.dims
    if dims == own or _is_permuted(walk, value):
        return None
    target = []
    for i, dim in enumerate(dims):
        static = dim_size(dim).static
        target.append(static if static is not None else (0 if i < len(own) and own[i] == dim else -1))
    return tuple(target)


def _is_layer_norm(walk: Walk, answer: Match, nodes: list[ir.Node], rank: int) -> bool:
    """A LayerNorm over the last axis is the same numbers as a GroupNorm over rows, but nobody means that.

    (Unless a Reshape leads to an InstanceNormalization: so GroupNorms are exported, LayerNorms are not.)
    """
    if rank == 2:
        return answer.num_groups == 1 and not any(n.op_type == "Reshape" for n in nodes)
    per_row = answer.channel_axis == 1 and answer.num_groups == answer.num_channels
    operators = {n.op_type for n in nodes}
    return rank == 3 and per_row and not answer.has_affine and not {"Reshape", "InstanceNormalization"} <= operators


def is_settled(walk: Walk) -> bool:
    """Whether a nearer candidate for x could only be mistaken for a GroupNorm."""
    return any(_is_other_normalisation(walk, value) for value in walk.matches)


def _are_weights(value: ir.Value) -> bool:
    """Whether the value is used as the weights of a convolution and as nothing else."""
    uses = value.uses()
    return bool(uses) and all(node.op_type in ("Conv", "ConvTranspose") and index == 1 for node, index in uses)
