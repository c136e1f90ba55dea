"""Finds the GroupNorms of a model, and says of every look-alike why it is none.

From each node that takes statistics, candidates for x are sought backward (roots.py). From a candidate the graph is
walked forward once, a fact for every value reached (transfer/), until each has been asked whether it is a GroupNorm
of x (matching.py). Of a chain of yes answers the last one counts that takes the whole chain with it.
"""

from __future__ import annotations

import dataclasses
import heapq
import logging
from collections.abc import Iterable

import onnx_ir as ir

from gn_onnx.group_norm import DOMAIN, GroupNorm, Rejection
from gn_onnx.recognition.algebra import THE_X, Moment, NotExpressible, Root, Tensor
from gn_onnx.recognition.evaluation import Evaluation, Fact, same_values
from gn_onnx.recognition.layout import Bind, LayoutError, Refine, dim_size
from gn_onnx.recognition.matching import Match, Mismatch, match
from gn_onnx.recognition.model_view import ModelView
from gn_onnx.recognition.roots import find_seeds
from gn_onnx.recognition.sizes import Size
from gn_onnx.recognition.transfer import apply

logger = logging.getLogger(__name__)

_MAX_NODES = 400
"""Nodes followed from one candidate: several times the longest spelling known."""
_MAX_RESTARTS = 16
_MAX_STEPS_BACK = 8
_ALREADY_ONE_NODE = {"InstanceNormalization", "LayerNormalization"}
_SHAPES_A_DIVISOR = {"Pow", "Exp", "Log", "Max", "Clip", "Abs"}
_NATIVE = {"GroupNormalization", "GroupNorm"}


def recognize(model: ir.Model) -> tuple[list[GroupNorm], list[Rejection]]:
    """Every GroupNorm of the model in graph order, and every look-alike with its reason. The model is not changed."""
    view = ModelView(model)
    found: list[GroupNorm] = []
    rejected: list[Rejection] = []
    covered: set[ir.Node] = set()
    for container in _callers_first(view):
        function = view.body_of.get(container)
        if function is not None and not _is_needed(view, function, covered):
            continue
        sites, refusals = _search(view, container, covered)
        found.extend(sites)
        rejected.extend(refusals)
    return found, rejected


def _callers_first(view: ModelView) -> list[ir.Graph]:
    """All graphs, the body of a function behind everything that calls it."""
    depth: dict[ir.OperatorIdentifier, int] = {}
    changed = bool(view.functions)
    while changed:
        changed = False
        for graph, function in view.body_of.items():
            level = depth.get(function.identifier(), 0) + 1
            for node in graph.all_nodes():
                identifier = node.op_identifier()
                if depth.get(identifier, 0) < level < len(view.functions) and identifier in view.functions:
                    depth[identifier] = level
                    changed = True
    functions = sorted(view.body_of, key=lambda graph: depth.get(view.body_of[graph].identifier(), 0))
    inside = {graph: [graph, *graph.subgraphs()] for graph in functions}
    bodies = {graph for graphs in inside.values() for graph in graphs}
    return [g for g in view.containers if g not in bodies] + [g for graph in functions for g in inside[graph]]


def _is_needed(view: ModelView, function: ir.Function, covered: set[ir.Node]) -> bool:
    """Whether the function is still called once the GroupNorms found so far are nodes; ours are no functions of a model."""
    if function.domain == DOMAIN:
        return False
    return any(node.op_identifier() == function.identifier() and node not in covered for node in view.position)


def _search(view: ModelView, container: ir.Graph, covered: set[ir.Node]) -> tuple[list[GroupNorm], list[Rejection]]:
    """Sites and refusals of one graph; the nodes that become part of a site join `covered`."""
    sites: dict[ir.Value, GroupNorm] = {}
    ends: set[ir.Value] = set()
    explained: set[ir.Node] = set()
    refused: dict[ir.Node, Rejection] = {}
    for seed in find_seeds(view, container):
        if seed.node in covered:
            continue
        refusals: list[_Refusal] = []
        for root, path in seed.candidates:
            if root.producer() in covered and root not in ends:
                continue  # inside another GroupNorm, gone once that is one node
            walk = _walk(view, root, path, only=len(seed.candidates) == 1)
            if isinstance(walk, _Refusal):
                refusals.append(walk)
                continue
            for site in walk.sites():
                if site.nodes & covered and seed.node not in site.nodes:
                    continue
                if site.trivial and any(refusal.progress == _IN_OWN_LAYOUT for refusal in refusals):
                    continue  # the same numbers, but what was meant is another normalisation of a farther x
                covered |= site.nodes
                ends.add(site.group_norm.output)
                if site.left_alone is None:
                    sites.setdefault(site.group_norm.output, site.group_norm)
                elif site.left_alone:
                    refused[seed.node] = _rejection(_producer(site.group_norm.output), site.left_alone)
            if seed.node in covered:
                break
            refusals.extend(walk.refusal())
            if walk.is_settled():
                break
        best = max(refusals, key=lambda r: r.progress, default=None)
        if seed.node in covered or best is None or seed.node in explained:
            continue
        if not (seed.node.op_type in _ALREADY_ONE_NODE and best.rejection.node == (seed.node.name or "")):
            refused[seed.node] = best.rejection
        explained |= best.nodes
    order = view.position
    ordered = sorted(sites.values(), key=lambda s: order[_producer(s.output)])
    replaced = {node for site in ordered for node in (_producer(site.output),)}
    return ordered, _distinct(r for node, r in refused.items() if node not in replaced)


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None, "a GroupNorm's output is computed by a node"
    return node


def _distinct(rejections: Iterable[Rejection]) -> list[Rejection]:
    """One rejection per node that broke a proof: mean and variance of one look-alike are one look-alike."""
    return list({(r.node, r.value, r.reason): r for r in rejections}.values())


def _are_weights(value: ir.Value) -> bool:
    """Whether the value is used as the weights of a convolution and as nothing else."""
    uses = value.uses()
    return bool(uses) and all(node.op_type in ("Conv", "ConvTranspose") and index == 1 for node, index in uses)


def _rejection(node: ir.Node, reason: str, reached: str = "") -> Rejection:
    return Rejection(reason, node.name or "", node.op_type, node.outputs[0].name or "", reached)


@dataclasses.dataclass(frozen=True)
class _Site:
    """A GroupNorm and the nodes that compute it; `left_alone` says why it stays as it is ("" needs no word)."""

    group_norm: GroupNorm
    nodes: frozenset[ir.Node]
    left_alone: str | None
    trivial: bool
    """As many groups as channels and no affine: a piece of almost any normalisation, in some layout."""


_ROOT_TAKEN, _NORMALISED, _IN_OWN_LAYOUT = 1, 2, 3
"""How far a proof got: a root of something; x divided by it; and that brought back to the layout of x."""


@dataclasses.dataclass(frozen=True)
class _Refusal:
    """A rejection and how far the proof got: of several candidates for x, the best one explains."""

    progress: int
    rejection: Rejection
    nodes: frozenset[ir.Node] = frozenset()


def _walk(view: ModelView, root: ir.Value, path: tuple[ir.Node, ...], *, only: bool) -> _Walk | _Refusal:
    """All facts that follow from one candidate x, with its axes cut as finely as the graph asks for."""
    cuts: dict[int, list[Size]] = {}
    bindings: dict[str, Size] = {}
    for _ in range(_MAX_RESTARTS):
        try:
            walk = _Walk(view, Evaluation(view, root, cuts, bindings, apply), only=only)
            walk.run(path)
            return walk
        except Refine as refine:
            atom = refine.atom
            assert atom.axis is not None
            pieces = list(cuts.get(atom.axis) or [(view.shape(root) or ())[atom.axis]])
            pieces[atom.index : atom.index + 1] = [refine.outer, atom.size / refine.outer]
            cuts[atom.axis] = pieces
        except Bind as bind:
            bindings[bind.symbol] = bind.size
        except NotExpressible as e:
            return _Refusal(0, _rejection(path[-1], str(e)))
    return _Refusal(0, _rejection(path[-1], "the dimensions of the input are cut in too many ways"))


class _Walk:
    """Facts and answers for one candidate x; `only`: there is no other candidate."""

    def __init__(self, view: ModelView, evaluation: Evaluation, *, only: bool) -> None:
        self.view = view
        self.only = only
        self.evaluation = evaluation
        self.matches: dict[ir.Value, Match] = {}
        self.mismatches: dict[ir.Value, Mismatch] = {}
        self.broken: list[tuple[ir.Node, str]] = []
        self._dtypes: dict[ir.Value, ir.DataType | None] = {}

    def run(self, path: tuple[ir.Node, ...]) -> None:
        """Follows the nodes of `path`, then everything that its values and x reach in the same graph."""
        root = self.evaluation.root
        self._dtypes[root] = self.view.dtype(root)
        seen: set[ir.Node] = set()
        heap: list[tuple[int, ir.Node]] = []
        container = path[-1].graph

        def push(value: ir.Value) -> None:
            for node, _ in value.uses():
                if node not in seen and node.graph is container:
                    seen.add(node)
                    heapq.heappush(heap, (self.view.position[node], node))

        seen.update(path)
        for node in path:
            for value in self._follow(node):
                push(value)
        for value in same_values(root):
            push(value)
        for _ in range(_MAX_NODES):
            if not heap:
                return
            for value in self._follow(heapq.heappop(heap)[1]):
                push(value)

    def _follow(self, node: ir.Node) -> list[ir.Value]:
        """The outputs of `node` whose facts are known now."""
        evaluation = self.evaluation
        try:
            facts = apply(evaluation, node)
            for fact in facts.values():
                self._check_worth(fact)
        except (NotExpressible, LayoutError) as e:
            self.broken.append((node, str(e)))
            evaluation.broken.update((value, str(e)) for value in node.outputs)
            return []
        for value, fact in facts.items():
            evaluation.facts[value] = fact
            self._dtypes[value] = self._dtype(node, value)
            if not any(isinstance(f, Root) for m in fact.poly for f, _ in m):
                continue
            try:
                self.matches[value] = match(evaluation, fact)
            except Mismatch as e:
                self.mismatches[value] = e
        return list(facts)

    def _check_worth(self, fact: Fact) -> None:
        """A value that another activation was added to or multiplied with leads to no GroupNorm of x."""
        whole = self.evaluation.algebra.x_atoms
        for monomial in fact.poly:
            tensors = [f for f, _ in monomial if isinstance(f, Tensor) and len({a.axis for a in f.atoms}) > 1]
            if any(whole and whole <= set(f.atoms) for f in tensors):
                raise NotExpressible("combined with another tensor of the input's size")

    def _dtype(self, node: ir.Node, value: ir.Value) -> ir.DataType | None:
        if value.dtype is not None:
            return value.dtype
        if node.op_type == "Cast" and "to" in node.attributes:
            return ir.DataType(node.attributes["to"].as_int())
        return next((self._dtypes[v] for v in node.inputs if v in self._dtypes), None)

    def sites(self) -> list[_Site]:
        """The GroupNorms of x: of every chain of yes answers, the last that all uses of the earlier ones lead to."""
        order = self.view.position
        answers = sorted(self._usable(), key=lambda v: order[_producer(v)])
        chosen: list[ir.Value] = []
        behind: set[ir.Value] = set()
        for value in answers:
            if value in behind:
                continue
            current = value
            for later in answers:
                if order[_producer(later)] > order[_producer(current)] and self._leads_only_to(current, later):
                    current = later
            behind |= self._descendants(value)
            if not self._is_other_normalisation(current):
                chosen.append(current)
        return [self._site(value) for value in chosen]

    def _usable(self) -> Iterable[ir.Value]:
        dtype = self._dtypes[self.evaluation.root]
        for value, answer in self.matches.items():
            if self._dtypes.get(value) != dtype or not self._known_outside(answer):
                continue
            shape = self._x_shape(value)
            bound = bool(self.evaluation.bindings)  # a size that was concluded is not written into the model
            if shape is not None and (bound or shape.count(-1) > 1 or not self._is_clear(value, answer)):
                continue
            yield value

    def _is_clear(self, value: ir.Value, answer: Match) -> bool:
        """Whether a result in another shape than x is a GroupNorm in that shape, not just on the way back to x's own.

        It is where there are groups of channels, or a scale that tells which axis the channels are, or where x is
        all that is to be seen (a tensor out of a quantised part) and only its last axis is unfolded.
        """
        if answer.has_affine or answer.num_groups != answer.num_channels:
            return True
        return self.only and self.evaluation.facts[value].dims[:2] == self.evaluation.dims[:2]

    def _known_outside(self, answer: Match) -> bool:
        container = self.evaluation.root.graph
        for term in (*answer.scale.terms, *answer.bias.terms):
            for value in term[1]:
                if value.graph in self.view.body_of and value.graph is not container:
                    return False
        return True

    def _leads_only_to(self, value: ir.Value, later: ir.Value) -> bool:
        """Whether every use of `value` ends in `later`, so that replacing `later` leaves nothing of the chain alive."""
        stack, seen = [value], {value, later}
        while stack:
            current = stack.pop()
            if current.is_graph_output():
                return False
            for node, _ in current.uses():
                if node.op_type == "Shape" or later in node.outputs:
                    continue
                for output in node.outputs:
                    if output not in self.evaluation.facts:
                        return False
                    if output not in seen:
                        seen.add(output)
                        stack.append(output)
            if not current.uses():
                return False
        return True

    def _descendants(self, value: ir.Value) -> set[ir.Value]:
        out, stack = {value}, [value]
        while stack:
            for node, _ in stack.pop().uses():
                for output in node.outputs:
                    if output in self.evaluation.facts and output not in out:
                        out.add(output)
                        stack.append(output)
        return out

    def _is_other_normalisation(self, value: ir.Value) -> bool:
        """Whether a fixed scale along other axes follows: then the axis that was taken for the channels is none."""
        if self.matches[value].has_affine:
            return False
        dims = self.evaluation.facts[value].dims
        behind = (v for v in self._descendants(value) if v in self.mismatches)
        return any(self.mismatches[v].elsewhere and self.evaluation.facts[v].dims == dims for v in behind)

    def _site(self, value: ir.Value) -> _Site:
        answer, root = self.matches[value], self.evaluation.root
        nodes = self._nodes_between(value)
        rank = len(self.evaluation.facts[value].dims)
        dtype = self._dtypes[root] or ir.DataType.FLOAT
        core = next((n for n in nodes if n.op_type.endswith(("Normalization", "GroupNorm"))), None)
        core = core or next((n for n in nodes if n.op_type.startswith(("Reduce", "Global"))), _producer(value))
        group_norm = GroupNorm(
            x=min(same_values(root), key=lambda v: -1 if v.producer() is None else self.view.position[_producer(v)]),
            output=value,
            x_shape=self._x_shape(value),
            num_groups=answer.num_groups,
            epsilon=answer.epsilon,
            scale=answer.scale,
            bias=answer.bias,
            dtype=dtype,
            rank=rank,
            sizes=self._sizes(value),
            num_channels=answer.num_channels,
            stash_type=11 if dtype == ir.DataType.DOUBLE else 1,
            channels_last=answer.channel_axis == rank - 1 and rank > 2,
            core=core.op_type,
            native=len(nodes) == 1 and nodes[0].op_type in _NATIVE,
            shaped_like_x=tuple(v for v in self.evaluation.facts if self._has_shape_of_x(v, nodes)),
            node_names=tuple(n.name or "" for n in nodes),
        )
        left_alone = None
        if len(nodes) == 1 and nodes[0].op_type in _ALREADY_ONE_NODE:
            left_alone = ""
        elif _are_weights(value):
            left_alone = "weights are standardised here, not activations"
        elif self._is_layer_norm(answer, nodes, rank):
            left_alone = "a LayerNorm: the statistics of each position, over the last axis"
        trivial = answer.num_groups == answer.num_channels and not answer.has_affine
        return _Site(group_norm, frozenset(nodes), left_alone, trivial)

    def _has_shape_of_x(self, value: ir.Value, nodes: list[ir.Node]) -> bool:
        return value.producer() in nodes and self.evaluation.facts[value].dims == self.evaluation.dims

    def _sizes(self, value: ir.Value) -> tuple[int | None, ...] | None:
        sizes = self.view.shape(value)
        return None if sizes is None else tuple(size.static for size in sizes)

    def _x_shape(self, value: ir.Value) -> tuple[int, ...] | None:
        """What x has to be reshaped to first (0: as it is, -1: the rest); None where the output has x's own shape."""
        dims, own = self.evaluation.facts[value].dims, self.evaluation.dims
        if dims == own:
            return None
        target = []
        for i, dim in enumerate(dims):
            static = dim_size(dim).static
            target.append(static if static is not None else (0 if i < len(own) and own[i] == dim else -1))
        return tuple(target)

    def _is_layer_norm(self, answer: Match, nodes: list[ir.Node], rank: int) -> bool:
        """A LayerNorm over the last axis is the same numbers as a GroupNorm over rows, but nobody means that."""
        if rank == 2:
            return answer.num_groups == 1 and not any(n.op_type == "Reshape" for n in nodes)
        per_row = answer.channel_axis == 1 and answer.num_groups == answer.num_channels
        return rank == 3 and per_row and not answer.has_affine

    def _nodes_between(self, value: ir.Value) -> list[ir.Node]:
        """The nodes that compute `value` from x, in graph order."""
        facts, root = self.evaluation.facts, self.evaluation.root
        nodes: set[ir.Node] = set()
        stack = [value]
        while stack:
            node = stack.pop().producer()
            if node is None or node in nodes:
                continue
            nodes.add(node)
            stack.extend(v for v in node.inputs if v is not None and v is not root and v in facts)
        return sorted(nodes, key=lambda n: self.view.position[n])

    def is_settled(self) -> bool:
        """Whether a nearer candidate for x could only be mistaken for a GroupNorm."""
        return any(self._is_other_normalisation(value) for value in self.matches)

    def refusal(self) -> list[_Refusal]:
        """Why nothing of this walk is a GroupNorm; empty when nothing of it looks like one."""
        evaluation = self.evaluation
        nodes = frozenset(node for value in evaluation.facts if (node := value.producer()) is not None)
        normalised = [value for value in self.mismatches if self._holds_x(evaluation.facts[value])]
        own = [value for value in normalised if evaluation.facts[value].dims == evaluation.dims]
        if normalised:
            value = (own or normalised)[0]
            reached = evaluation.algebra.show(evaluation.facts[value].poly)
            broken = self._first_broken(evaluation.facts[value])
            if broken is None:
                rejection = _rejection(_producer(value), str(self.mismatches[value]), reached)
            else:
                rejection = _rejection(_producer(broken), evaluation.broken[broken], reached)
            return [_Refusal(_IN_OWN_LAYOUT if own else _NORMALISED, rejection, nodes)]
        for value in self.mismatches:
            if self._normalises_another(evaluation.facts[value]):
                reason = "another tensor is normalised with the statistics of this one"
                rejection = _rejection(_producer(value), reason, evaluation.algebra.show(evaluation.facts[value].poly))
                return [_Refusal(_ROOT_TAKEN, rejection, nodes)]
        for node, reason in self.broken:
            if node.op_type in _SHAPES_A_DIVISOR and any(
                self._is_variance(evaluation.facts.get(v)) for v in node.inputs if v is not None
            ):
                return [_Refusal(_ROOT_TAKEN, _rejection(node, reason), nodes)]
        for node, reason in self.broken:
            facts = [evaluation.facts[v] for v in node.inputs if v in evaluation.facts]
            rooted = [f for f in facts if any(isinstance(factor, Root) for m in f.poly for factor, _ in m)]
            if rooted:
                return [_Refusal(_ROOT_TAKEN, _rejection(node, reason, evaluation.algebra.show(rooted[0].poly)), nodes)]
        return []

    def _first_broken(self, fact: Fact) -> ir.Value | None:
        """The first value on the way from x to a tensor in the expression that an operation made unreadable."""
        polys, seen = [fact.poly], set()
        for poly in polys:
            for factor in (f for m in poly for f, _ in m):
                if isinstance(factor, Root) and factor not in seen:
                    seen.add(factor)
                    polys.append(self.evaluation.algebra.roots[factor.index])
                if isinstance(factor, Tensor) and isinstance(factor.key, ir.Value):
                    broken = self._broken_before(factor.key)
                    if broken is not None:
                        return broken
        return None

    def _broken_before(self, value: ir.Value) -> ir.Value | None:
        first, frontier = None, [value]
        for _ in range(_MAX_STEPS_BACK):
            first = next((v for v in frontier if v in self.evaluation.broken), first)
            nodes = [node for v in frontier if (node := v.producer()) is not None]
            frontier = [v for node in nodes for v in node.inputs if v is not None and v not in self.evaluation.facts]
        return first

    @staticmethod
    def _is_variance(fact: Fact | None) -> bool:
        return fact is not None and any(isinstance(f, Moment) and f.power == 2 for m in fact.poly for f, _ in m)

    @staticmethod
    def _normalises_another(fact: Fact) -> bool:
        return any(
            any(isinstance(f, Root) and e < 0 for f, e in m)
            and any(isinstance(f, Tensor) and len(f.atoms) > 2 for f, _ in m)
            for m in fact.poly
        )

    @staticmethod
    def _holds_x(fact: Fact) -> bool:
        return any(f == THE_X for m in fact.poly for f, _ in m)
