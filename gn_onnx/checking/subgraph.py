"""Cut the few nodes between two values out of a model, and evaluate them in float64.

Shapes are concrete here: `Shape` nodes become constants, so that a piece never reaches back through
the network for a size. Imports: numpy, onnx.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from gn_onnx.checking.float64 import GROUP_NORM_OPS, model_to_float64
from gn_onnx.checking.scope import CannotEvaluate, Scope
from gn_onnx.files import graph_walk

_MAX_NODES = 400

# The reference evaluator runs whatever the graph says in numpy; all of numpy's and Python's complaints may come out.
EVALUATION_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NotImplementedError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Piece:
    """Nodes that compute `output` from `leaves` and constants.

    Attributes:
        output: Name of the value computed.
        leaves: Names that must be fed, the caller's x among them when it is used.
        model: The nodes alone in float64, all names replaced by position, so that equal pieces are equal bytes.
        feeds: For every input of `model`, the leaf's name or the constant's array.
        computed: Names that its nodes compute, `output` among them.
    """

    output: str
    leaves: tuple[str, ...]
    model: onnx.ModelProto
    feeds: dict[str, str | np.ndarray]
    computed: frozenset[str]


def cut_out(scope: Scope, output: str, is_leaf: Callable[[str], bool], proto: onnx.ModelProto) -> Piece:
    """The piece that computes `output`, going back to leaves and constants.

    Raises:
        CannotEvaluate: It reaches something that varies and is no leaf, or it is too large to be one operation.
    """
    nodes: list[onnx.NodeProto] = []
    leaves: dict[str, None] = {}
    constants: dict[str, np.ndarray] = {}
    done: set[str] = set()
    pending: list[tuple[str, bool]] = [(output, False)]
    while pending:
        name, inputs_are_done = pending.pop()
        if name in done and not inputs_are_done:
            continue
        home = scope.home(name)
        if is_leaf(name):
            leaves[name] = None
        elif name in home.constants:
            constants[name] = home.array(name)
        elif name not in home.producer:
            raise CannotEvaluate(f"depends on {name!r}, which is not part of it")
        else:
            node = home.nodes[home.producer[name]]
            if node.op_type == "Shape" and node.domain in ("", "ai.onnx") and node.input[0] in home.shapes:
                constants[name] = _shape_constant(node, home.shapes[node.input[0]])
            elif inputs_are_done:
                nodes.append(node)
                done.update(node.output)
            else:
                pending.append((name, True))
                pending.extend((value, False) for value in sorted(graph_walk.uses(node)))
                if len(nodes) + len(pending) > _MAX_NODES:
                    raise CannotEvaluate(f"more than {_MAX_NODES} nodes lie between input and output")
        done.add(name)
    return _piece(output, tuple(leaves), _unique(nodes), constants, proto)


def _unique(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """A node with two outputs, or reached twice, once."""
    return list({id(node): node for node in nodes if node.output}.values())


def _shape_constant(node: onnx.NodeProto, shape: tuple[int, ...]) -> np.ndarray:
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], np.int64)


def _piece(
    output: str,
    leaves: tuple[str, ...],
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    proto: onnx.ModelProto,
) -> Piece:
    names: dict[str, str] = {"": ""}
    graph = onnx.GraphProto(name="piece")
    feeds: dict[str, str | np.ndarray] = {}

    def add_input(name: str, element_type: int, value: str | np.ndarray) -> None:
        names[name] = f"v{len(names)}"
        graph.input.append(onnx.helper.make_tensor_value_info(names[name], element_type, None))
        feeds[names[name]] = value

    for leaf in leaves:
        add_input(leaf, onnx.TensorProto.DOUBLE, leaf)
    for name, array in constants.items():
        if array.dtype.kind in "fV" or array.dtype.name == "bfloat16":
            add_input(name, onnx.TensorProto.DOUBLE, array.astype(np.float64))
        else:
            names[name] = f"v{len(names)}"
            graph.initializer.append(numpy_helper.from_array(array, names[name]))
    for node in nodes:
        for name in node.output:
            names.setdefault(name, f"v{len(names)}")
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        graph.node.append(_renamed(copy, names))
    graph.output.append(onnx.helper.make_tensor_value_info(names[output], onnx.TensorProto.DOUBLE, None))
    model = onnx.ModelProto(ir_version=proto.ir_version, graph=graph)
    model.opset_import.extend(proto.opset_import)
    model.functions.extend(proto.functions)
    model = model_to_float64(model)
    return Piece(output, leaves, model, feeds, frozenset(name for node in nodes for name in node.output if name))


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """The node with other names for outer values; what its subgraphs define themselves keeps its name."""
    node.name = node.doc_string = ""
    node.ClearField("metadata_props")
    for field in (node.input, node.output):
        field[:] = [names.get(name, name) for name in field]
    for graph in graph_walk.subgraphs(node):
        for inner in graph.node:
            _renamed(inner, names)
        for value in graph.output:
            value.name = names.get(value.name, value.name)
    return node


class Evaluator:
    """Runs pieces; pieces of the same form share one reference evaluator, whose making costs most."""

    def __init__(self) -> None:
        self._made: dict[bytes, ReferenceEvaluator] = {}

    def is_known(self, piece: Piece) -> bool:
        return piece.model.SerializeToString(deterministic=True) in self._made

    def run(self, piece: Piece, leaves: Mapping[str, np.ndarray]) -> np.ndarray:
        """The output in float64.

        Raises:
            CannotEvaluate: An operator is not known to the reference evaluator, or shapes do not fit.
        """
        feeds = {name: leaves[value] if isinstance(value, str) else value for name, value in piece.feeds.items()}
        key = piece.model.SerializeToString(deterministic=True)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                if key not in self._made:
                    self._made[key] = ReferenceEvaluator(piece.model, new_ops=list(GROUP_NORM_OPS))
                result: Any = self._made[key].run(None, feeds)
        except EVALUATION_ERRORS as error:
            raise CannotEvaluate(f"{type(error).__name__}: {str(error)[:200]}") from error
        return np.asarray(result[0], np.float64)
