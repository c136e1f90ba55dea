"""Finds the GroupNorms of a model, and says of every look-alike why it is none.

Graph by graph (search.py): from each node that takes statistics, candidates for x are sought backward (roots.py). What
follows from a candidate is found forward (walk.py); of that, sites.py says what becomes one node, and refusals.py why
nothing does.
"""

from __future__ import annotations

import onnx_ir as ir

from gn_onnx.group_norm import DOMAIN, GroupNorm, Rejection
from gn_onnx.recognition.followed_shapes import follow_shapes
from gn_onnx.recognition.model_view import ModelView
from gn_onnx.recognition.search import search


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
        here, not_here = search(view, container, covered)
        found.extend(here)
        rejected.extend(not_here)
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
