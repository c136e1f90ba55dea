"""Finds the GroupNorms of a model, and says of every look-alike why it is none.

From each node that takes statistics, candidates for x are sought backward (roots.py). What follows from a candidate is
found forward (walk.py); of that, sites.py says what becomes one node, and refusals.py why nothing does.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from gn_onnx.group_norm import DOMAIN, GroupNorm, Rejection
from gn_onnx.recognition.followed_shapes import follow_shapes
from gn_onnx.recognition.model_view import ModelView
from gn_onnx.recognition.polynomials import NotExpressible
from gn_onnx.recognition.refusals import IN_OWN_LAYOUT, ROOT_TAKEN, Refusal, refusals, rejection
from gn_onnx.recognition.roots import Seed, find_seeds
from gn_onnx.recognition.sites import ALREADY_ONE_NODE, OF_WEIGHTS, Site, find_sites, find_views, is_settled, site_of_view
from gn_onnx.recognition.walk import Walk, is_floating, producer, walk_from

_MAX_KEPT_WALKS = 16
"""The mean and the variance of one look-alike lead to the same candidates."""


def recognize(model: ir.Model) -> tuple[list[GroupNorm], list[Rejection]]:
    """Every GroupNorm of the model in graph order, and every look-alike with its reason. The model is not changed."""
    view = ModelView(model)
    follow_shapes(view)
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
    walks: dict[ir.Value, Walk] = {}
    views: dict[ir.Value, Walk] = {}  # GroupNorms in another shape than their x, if another one goes on from them

    def take(site: Site) -> None:
        covered.update(site.nodes)
        ends.add(site.group_norm.output)
        if site.left_alone is None:
            sites.setdefault(site.group_norm.output, site.group_norm)

    for seed in find_seeds(view, container):
        if seed.node in covered:
            continue
        if seed.of_weights:
            refused.update(_standardised_weights(view, seed))
            continue
        refused_here: list[Refusal] = []
        farther: list[Walk] = []  # from where x is normalised in its own layout, but not as a GroupNorm
        postponed: list[Site] = []
        unreadable: Rejection | None = None  # why a farther x's view could not be followed
        for root, path in seed.candidates:
            if root.producer() in covered and root not in ends:
                continue  # inside another GroupNorm, gone once that is one node
            if not is_floating(view, root):
                continue
            walk = walks.get(root)
            if walk is None or seed.node not in walk.followed:
                try:
                    walk = walk_from(view, root, path)
                except NotExpressible as e:
                    refused_here.append(Refusal(0, rejection(path[-1], str(e))))
                    continue
                walks[root] = walk
                if len(walks) > _MAX_KEPT_WALKS:
                    del walks[next(iter(walks))]
            for site in find_sites(walk, only=len(seed.candidates) == 1):
                if site.nodes & covered and seed.node not in site.nodes:
                    continue
                if site.trivial and not all(other.is_multiple_of_x(root) for other in farther):
                    continue  # the same numbers, but what was meant is another normalisation of a farther x
                if postponed and site.left_alone is not None:
                    continue
                if site.x_was_multiplied:
                    postponed.append(site)
                    continue
                take(site)
                if site.left_alone is not None:
                    # Of a view, what became of the x that it is a view of says more.
                    viewed = max(refused_here, key=lambda r: r.progress, default=None)
                    if viewed is not None and viewed.progress >= (ROOT_TAKEN if site.left_alone else IN_OWN_LAYOUT):
                        refused[seed.node] = viewed.rejection
                    elif site.left_alone or (unreadable is not None and _is_reshaped(site.group_norm.output)):
                        refused[seed.node] = unreadable or rejection(producer(site.group_norm.output), site.left_alone)
            if seed.node in covered:
                break
            cut = next((reason for node, reason in walk.broken if node is path[0] and node.op_type == "Reshape"), None)
            if cut is not None:
                unreadable = rejection(path[0], f"this view does not keep samples and channels apart: {cut}")
            views.update(dict.fromkeys(find_views(walk), walk))
            refused_here.extend(of_walk := refusals(walk, covered))
            farther.extend(walk for refusal in of_walk if refusal.progress == IN_OWN_LAYOUT)
            if is_settled(walk) and not postponed:
                break
        for site in postponed:
            if seed.node not in covered:
                take(site)
        best = max(refused_here, key=lambda r: r.progress, default=None)
        if seed.node in covered or best is None or seed.node in explained:
            continue
        one_node = seed.node.op_type in ALREADY_ONE_NODE and best.rejection.value == (seed.node.outputs[0].name or "")
        if not one_node or best.progress == ROOT_TAKEN:
            refused[seed.node] = best.rejection
        explained |= best.nodes
    for x in [found.x for found in sites.values()]:
        while (walk := views.pop(x, None)) is not None and x not in sites:
            take(first := site_of_view(walk, x))
            refused = {node: why for node, why in refused.items() if node not in first.nodes}
            x = first.group_norm.x
    order = view.position
    ordered = sorted(sites.values(), key=lambda s: order[producer(s.output)])
    replaced = {node for site in ordered for node in (producer(site.output),)}
    return ordered, _distinct(r for node, r in refused.items() if node not in replaced)


def _standardised_weights(view: ModelView, seed: Seed) -> dict[ir.Node, Rejection]:
    """One rejection where weights are normalised; whether they are as a GroupNorm would makes no difference."""
    ((weights, path),) = seed.candidates
    if not is_floating(view, weights):
        return {}
    try:
        walk = walk_from(view, weights, path)
    except NotExpressible:
        return {}
    value = next(iter([*walk.matches, *walk.mismatches]), None)
    return {} if value is None else {seed.node: rejection(producer(value), OF_WEIGHTS)}


def _is_reshaped(value: ir.Value) -> bool:
    """Whether nothing else becomes of a value: then what was normalised is a view."""
    return all(node.op_type == "Reshape" for node, _ in value.uses())


def _distinct(rejections: Iterable[Rejection]) -> list[Rejection]:
    """One rejection per node that broke a proof: mean and variance of one look-alike are one look-alike."""
    return list({(r.node, r.value, r.reason): r for r in rejections}.values())
