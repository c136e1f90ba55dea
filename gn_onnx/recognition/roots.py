"""Where to look: the nodes that take statistics, and the tensors that they may be the statistics of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from gn_onnx.group_norm import DOMAIN
from gn_onnx.recognition.model_view import STANDARD_DOMAINS, ModelView

MEANS = {"ReduceMean", "GlobalAveragePool", "AveragePool"}
STATISTICS = MEANS | {
    "ReduceSum",
    "ReduceSumSquare",
    "ReduceL2",
    "InstanceNormalization",
    "LayerNormalization",
    "BatchNormalization",
    "GroupNormalization",
}
CONTRIB_STATISTICS = {"GroupNorm", "SkipGroupNorm"}
_CONTRACTIONS = {"MatMul", "Gemm", "Conv", "Einsum"}
"""They take a mean where one operand is a matrix of ones and zeros, or 1/n and zeros; an Einsum may have one operand."""
_CONTRIB_CONTRACTIONS = {"FusedMatMul"}

LAYOUT_ONLY = {
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Identity",
    "Cast",
    "CastLike",
    "Dropout",
    "Split",
    "Slice",
    "Gather",
    "Pad",
}
_ARITHMETIC = {"Mul", "Add", "Sub", "Div", "Pow", "Neg", "Abs"}
_MAX_STEPS = 8
_LOOKED_AT = 16


@dataclasses.dataclass(frozen=True)
class Seed:
    """A node that takes statistics, and the candidates for x with the nodes between.

    Attributes:
        node: The node.
        candidates: (x, nodes from x to `node`), farthest first: the farther, the more of the graph one node replaces.
        of_weights: What it takes statistics of is the same in every run.
    """

    node: ir.Node
    candidates: tuple[tuple[ir.Value, tuple[ir.Node, ...]], ...]
    of_weights: bool = False


def find_seeds(view: ModelView, container: ir.Graph) -> Iterator[Seed]:
    """Seeds of one graph (not of the graphs inside it), in graph order."""
    calls = _functions_with_statistics(view)
    for node in container:
        if node.domain in STANDARD_DOMAINS and node.op_type in STATISTICS:
            value = node.inputs[0]
            if value is not None and view.is_fixed(value):
                yield Seed(node, ((value, (node,)),), of_weights=True)
            else:
                yield Seed(node, tuple(_candidates(view, node, node.inputs[:1])))
        elif _is_contraction(node) and _sums_up(view, node):
            yield Seed(node, tuple(_candidates(view, node, dict.fromkeys(node.inputs))))
        elif node.domain == "com.microsoft" and node.op_type in CONTRIB_STATISTICS:
            yield Seed(node, tuple(_candidates(view, node, node.inputs[:1])))
        elif node.op_identifier() in calls:
            yield Seed(node, tuple(_candidates(view, node, node.inputs)))


def _is_contraction(node: ir.Node) -> bool:
    if node.domain in STANDARD_DOMAINS:
        return node.op_type in _CONTRACTIONS
    return node.domain == "com.microsoft" and node.op_type in _CONTRIB_CONTRACTIONS


def _sums_up(view: ModelView, node: ir.Node) -> bool:
    if node.op_type == "Einsum":
        return len(set(node.inputs)) == 1 or any(_is_uniform(view, value) for value in node.inputs)
    return any(_is_uniform(view, value) for value in node.inputs[:2])


def _is_uniform(view: ModelView, value: ir.Value | None) -> bool:
    """Whether a tensor holds one number beside zeros, as far as its first elements tell (weights never do)."""
    node = None if value is None else value.producer()
    while node is not None and node.domain in STANDARD_DOMAINS and node.op_type in LAYOUT_ONLY:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    if value is None or (node is not None and node.op_type == "ConstantOfShape"):
        return value is not None
    array = view.constant(value)
    if array is None or array.ndim == 0:
        return False
    first = array[tuple([0] * (array.ndim - 1))] if array.shape[-1] > 1 else array.ravel()[:_LOOKED_AT]
    found = first[first != 0]
    return bool(found.size) and bool(np.all(found == found[0]))


def _functions_with_statistics(view: ModelView) -> set[ir.OperatorIdentifier]:
    """Model-local functions that take statistics, themselves or through others; ours are operators, not functions."""
    found: set[ir.OperatorIdentifier] = set()
    while True:
        more = {
            identifier
            for identifier, function in view.functions.items()
            if identifier not in found
            and identifier[0] != DOMAIN
            and any(
                n.op_identifier() in found or (n.domain in STANDARD_DOMAINS and n.op_type in STATISTICS) for n in function
            )
        }
        if not more:
            return found
        found |= more


def _candidates(
    view: ModelView, seed: ir.Node, inputs: Iterable[ir.Value | None]
) -> Iterator[tuple[ir.Value, tuple[ir.Node, ...]]]:
    for value in inputs:
        if value is None or view.is_fixed(value):
            continue  # constants, which no activation's statistics are taken of
        chain: list[tuple[ir.Value, tuple[ir.Node, ...]]] = [(value, (seed,))]
        for _ in range(_MAX_STEPS):
            step = _step_back(view, chain[-1][0], seed)
            if step is None:
                break
            node, source = step
            chain.append((source, (node, *chain[-1][1])))
        yield from reversed(chain)


def _step_back(view: ModelView, value: ir.Value, seed: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The node that made `value`, if it only moves elements or does arithmetic on one tensor, and that tensor."""
    node = value.producer()
    if node is None or node.graph is not seed.graph or node.domain not in STANDARD_DOMAINS:
        return None
    if node.op_type in LAYOUT_ONLY:
        source = node.inputs[0]
    elif node.op_type in _ARITHMETIC:
        varying = {v for v in node.inputs if v is not None and not view.is_fixed(v)}
        source = varying.pop() if len(varying) == 1 else None
    else:
        return None
    if source is None or view.is_fixed(source):
        return None
    return node, source
