"""Facts and answers for one candidate x.

The graph is walked forward from x once, a fact for every value reached (transfer/), and each value is asked whether it
is a GroupNorm of x (matching.py).
"""

from __future__ import annotations

import heapq

import onnx_ir as ir

from gn_onnx.recognition.evaluation import Evaluation, Fact, same_values
from gn_onnx.recognition.layout import Bind, LayoutError, Refine
from gn_onnx.recognition.matching import Match, match
from gn_onnx.recognition.model_view import ModelView
from gn_onnx.recognition.polynomials import THE_X, NotExpressible, Overlay, Root, Tensor, of_factor
from gn_onnx.recognition.sizes import Size
from gn_onnx.recognition.transfer import apply
from gn_onnx.recognition.variance import Mismatch

_MAX_NODES = 400
"""Nodes followed from one candidate: several times the longest spelling known."""
_MAX_RESTARTS = 16
_FLOATING = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


def walk_from(view: ModelView, root: ir.Value, path: tuple[ir.Node, ...]) -> Walk:
    """All facts that follow from one candidate x, with its axes cut as finely as the graph asks for.

    Raises:
        NotExpressible: When nothing can be said of x.
    """
    cuts: dict[int, list[Size]] = {}
    bindings: dict[str, Size] = {}
    for _ in range(_MAX_RESTARTS):
        try:
            walk = Walk(view, Evaluation(view, root, cuts, bindings, apply))
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
    raise NotExpressible("the dimensions of the input are cut in too many ways")


def is_floating(view: ModelView, value: ir.Value) -> bool:
    """Whether a value may be normalised: masks, counts and text are not. True where the type is not known."""
    dtype = view.dtype(value)
    return dtype is None or dtype in _FLOATING


def producer(value: ir.Value) -> ir.Node:
    """The node that computes a value of which it is known that a node does."""
    node = value.producer()
    assert node is not None
    return node


class Walk:
    """What became of one candidate x.

    Attributes:
        view: The model.
        evaluation: The facts: of x, and of everything that was derived from it or taken into it.
        matches: The values that are a GroupNorm of x.
        mismatches: Those that were divided by a root and are none, with the reason.
        broken: Nodes whose results are not followed, with the reason, in graph order.
        dtypes: Element type of every value with a fact.
        followed: The nodes that were looked at.
    """

    def __init__(self, view: ModelView, evaluation: Evaluation) -> None:
        self.view = view
        self.evaluation = evaluation
        self.matches: dict[ir.Value, Match] = {}
        self.mismatches: dict[ir.Value, Mismatch] = {}
        self.broken: list[tuple[ir.Node, str]] = []
        self.dtypes: dict[ir.Value, ir.DataType | None] = {}
        self.followed: set[ir.Node] = set()

    def run(self, path: tuple[ir.Node, ...]) -> None:
        """Follows the nodes of `path`, then everything that its values and x reach in the same graph."""
        root = self.evaluation.root
        self.dtypes[root] = self.view.dtype(root)
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
        self.followed.add(node)
        if node.op_type in ("Shape", "Size"):
            return []  # not the data: integers.py
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
            self.dtypes[value] = self._dtype(node, value)
            if not any(isinstance(f, Root) for m in fact.poly for f, _ in m):
                continue
            try:
                answer = match(evaluation, fact)
                evaluation.check_nothing_hidden(value)
                self.matches[value] = answer
            except Mismatch as e:
                self.mismatches[value] = e
            except NotExpressible as e:
                self.mismatches[value] = Mismatch(str(e))
        return list(facts)

    def _check_worth(self, fact: Fact) -> None:
        """A value that another activation was added to or multiplied with leads to no GroupNorm of x."""
        whole = self.evaluation.algebra.x_atoms
        for monomial in fact.poly:
            others = (f for f, _ in monomial if isinstance(f, Tensor) and not isinstance(f.key, Overlay))
            tensors = [f for f in others if len({a.axis for a in f.atoms}) > 1]
            if any(whole and whole <= set(f.atoms) for f in tensors):
                raise NotExpressible("combined with another tensor of the input's size")

    def _dtype(self, node: ir.Node, value: ir.Value) -> ir.DataType | None:
        if value.dtype is not None:
            return value.dtype
        if node.op_type == "Cast" and "to" in node.attributes:
            return ir.DataType(node.attributes["to"].as_int())
        return next((self.dtypes[v] for v in node.inputs if v in self.dtypes), None)

    def is_multiple_of_x(self, value: ir.Value) -> bool:
        """Whether a value is x times a number."""
        fact = self.evaluation.facts.get(value)
        if fact is None or fact.dims != self.evaluation.dims or fact.poly.keys() != of_factor(THE_X).keys():
            return False
        return all(not coefficient.atoms for coefficient in fact.poly.values())

    def is_x(self, value: ir.Value) -> bool:
        """Whether a value is x itself, in whatever layout."""
        fact = self.evaluation.facts.get(value)
        return fact is not None and not self.evaluation.algebra.add(fact.poly, of_factor(THE_X), -1.0)

    def leads_only_to(self, value: ir.Value, later: ir.Value) -> bool:
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

    def descendants(self, value: ir.Value) -> set[ir.Value]:
        out, stack = {value}, [value]
        while stack:
            for node, _ in stack.pop().uses():
                for output in node.outputs:
                    if output in self.evaluation.facts and output not in out:
                        out.add(output)
                        stack.append(output)
        return out

    def nodes_between(self, value: ir.Value) -> list[ir.Node]:
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
