"""The GroupNorms and look-alikes of one graph.

Each node that takes statistics (a seed, roots.py) has candidates for x. They are tried from the farthest to the
nearest, until one of them explains the seed: as a part of a GroupNorm, or as what is none for a reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import onnx_ir as ir

from gn_onnx.group_norm import GroupNorm, Rejection
from gn_onnx.recognition.model_view import ModelView
from gn_onnx.recognition.polynomials import NotExpressible
from gn_onnx.recognition.refusals import IN_OWN_LAYOUT, ROOT_TAKEN, Refusal, refusals, rejection
from gn_onnx.recognition.roots import Seed, find_seeds
from gn_onnx.recognition.sites import ALREADY_ONE_NODE, OF_WEIGHTS, Site, find_sites, find_views, is_settled, site_of
from gn_onnx.recognition.walk import Walk, is_floating, producer, walk_from

_MAX_KEPT_WALKS = 16
"""The mean and the variance of one look-alike lead to the same candidates."""


def search(view: ModelView, container: ir.Graph, covered: set[ir.Node]) -> tuple[list[GroupNorm], list[Rejection]]:
    """What there is in one graph, in graph order; the nodes that become part of a GroupNorm join `covered`."""
    found = _Search(view, covered)
    for seed in find_seeds(view, container):
        if seed.node in covered:
            continue
        if seed.of_weights:
            found.explain_weights(seed)
        else:
            found.try_candidates(seed)
    found.take_views()
    return found.result()


@dataclasses.dataclass
class _Attempt:
    """What was seen of the candidates of one seed so far, the farthest first.

    Attributes:
        seed: The node that takes statistics.
        refused: Why what follows from a candidate is no GroupNorm.
        farther: Where x is normalised in its own layout, but not as a GroupNorm.
        postponed: GroupNorms of which a nearer candidate may be the x that was meant.
        unreadable: Why the view that a farther x is seen through could not be followed.
    """

    seed: Seed
    refused: list[Refusal] = dataclasses.field(default_factory=list)
    farther: list[Walk] = dataclasses.field(default_factory=list)
    postponed: list[Site] = dataclasses.field(default_factory=list)
    unreadable: Rejection | None = None

    @property
    def best(self) -> Refusal | None:
        """The refusal that got farthest."""
        return max(self.refused, key=lambda refusal: refusal.progress, default=None)


class _Search:
    """What was found in one graph so far."""

    def __init__(self, view: ModelView, covered: set[ir.Node]) -> None:
        self._view = view
        self._covered = covered
        self._sites: dict[ir.Value, GroupNorm] = {}
        self._ends: set[ir.Value] = set()
        self._refused: dict[ir.Node, Rejection] = {}
        self._explained: set[ir.Node] = set()
        self._walks: dict[ir.Value, Walk] = {}
        self._views: dict[ir.Value, Walk] = {}
        """GroupNorms in another shape than their x, for the case that another one goes on from them."""

    def result(self) -> tuple[list[GroupNorm], list[Rejection]]:
        order = self._view.position
        ordered = sorted(self._sites.values(), key=lambda site: order[producer(site.output)])
        replaced = {producer(site.output) for site in ordered}
        return ordered, _distinct(r for node, r in self._refused.items() if node not in replaced)

    def explain_weights(self, seed: Seed) -> None:
        """One rejection where weights are normalised; whether they are as a GroupNorm would makes no difference."""
        ((weights, path),) = seed.candidates
        if not is_floating(self._view, weights):
            return
        try:
            walk = walk_from(self._view, weights, path)
        except NotExpressible:
            return
        value = next(iter([*walk.matches, *walk.mismatches]), None)
        if value is not None:
            self._refused[seed.node] = rejection(producer(value), OF_WEIGHTS)

    def try_candidates(self, seed: Seed) -> None:
        """Takes the GroupNorm that a seed belongs to, or says why there is none."""
        attempt = _Attempt(seed)
        for root, path in seed.candidates:
            if root.producer() in self._covered and root not in self._ends:
                continue  # inside another GroupNorm, gone once that is one node
            if not is_floating(self._view, root):
                continue
            walk = self._walk(attempt, root, path)
            if walk is None:
                continue
            for site in find_sites(walk, only=len(seed.candidates) == 1):
                self._consider(attempt, root, site)
            if seed.node in self._covered:
                break
            cut = next((reason for node, reason in walk.broken if node is path[0] and node.op_type == "Reshape"), None)
            if cut is not None:
                attempt.unreadable = rejection(path[0], f"this view does not keep samples and channels apart: {cut}")
            self._views.update(dict.fromkeys(find_views(walk), walk))
            attempt.refused.extend(of_walk := refusals(walk, self._covered))
            attempt.farther.extend(walk for refusal in of_walk if refusal.progress == IN_OWN_LAYOUT)
            if is_settled(walk) and not attempt.postponed:
                break
        for site in attempt.postponed:
            if seed.node not in self._covered:
                self._take(site)
        self._explain(attempt)

    def take_views(self) -> None:
        """A GroupNorm in a view, whose result another one takes as its x, was meant as one."""
        for x in [found.x for found in self._sites.values()]:
            while (walk := self._views.pop(x, None)) is not None and x not in self._sites:
                self._take(first := site_of(walk, x))
                self._refused = {node: why for node, why in self._refused.items() if node not in first.nodes}
                x = first.group_norm.x

    def _walk(self, attempt: _Attempt, root: ir.Value, path: tuple[ir.Node, ...]) -> Walk | None:
        walk = self._walks.get(root)
        if walk is not None and attempt.seed.node in walk.followed:
            return walk
        try:
            walk = walk_from(self._view, root, path)
        except NotExpressible as e:
            attempt.refused.append(Refusal(0, rejection(path[-1], str(e))))
            return None
        self._walks[root] = walk
        if len(self._walks) > _MAX_KEPT_WALKS:
            del self._walks[next(iter(self._walks))]
        return walk

    def _consider(self, attempt: _Attempt, root: ir.Value, site: Site) -> None:
        if site.nodes & self._covered and attempt.seed.node not in site.nodes:
            return
        if site.trivial and not all(other.is_multiple_of_x(root) for other in attempt.farther):
            return  # the same numbers, but what was meant is another normalisation of a farther x
        if attempt.postponed and site.left_alone is not None:
            return
        if site.x_was_multiplied:
            attempt.postponed.append(site)
            return
        self._take(site)
        if site.left_alone is not None:
            self._explain_left_alone(attempt, site, site.left_alone)

    def _take(self, site: Site) -> None:
        self._covered.update(site.nodes)
        self._ends.add(site.group_norm.output)
        if site.left_alone is None:
            self._sites.setdefault(site.group_norm.output, site.group_norm)

    def _explain_left_alone(self, attempt: _Attempt, site: Site, why: str) -> None:
        """Of a view, what became of the x that it is a view of says more than why the view's own norm stays."""
        viewed = attempt.best
        if viewed is not None and viewed.progress >= (ROOT_TAKEN if why else IN_OWN_LAYOUT):
            self._refused[attempt.seed.node] = viewed.rejection
        elif why or (attempt.unreadable is not None and _is_reshaped(site.group_norm.output)):
            self._refused[attempt.seed.node] = attempt.unreadable or rejection(producer(site.group_norm.output), why)

    def _explain(self, attempt: _Attempt) -> None:
        node, best = attempt.seed.node, attempt.best
        if node in self._covered or best is None or node in self._explained:
            return
        is_itself = node.op_type in ALREADY_ONE_NODE and best.rejection.value == (node.outputs[0].name or "")
        if not is_itself or best.progress == ROOT_TAKEN:
            self._refused[node] = best.rejection
        self._explained |= best.nodes


def _is_reshaped(value: ir.Value) -> bool:
    """Whether nothing else becomes of a value: then what was normalised is a view."""
    return all(node.op_type == "Reshape" for node, _ in value.uses())


def _distinct(rejections: Iterable[Rejection]) -> list[Rejection]:
    """One rejection per node that broke a proof: mean and variance of one look-alike are one look-alike."""
    return list({(r.node, r.value, r.reason): r for r in rejections}.values())
