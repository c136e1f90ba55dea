"""Which node computes a name, place by place: graphs, their subgraphs, functions.

Two graphs with the same node names in different places (branches of an If, functions) are kept apart here.
Imports: numpy, onnx.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from gn_onnx.files import external_data, graph_walk, sparse

_MAX_CONSTANT_ELEMENTS = 1 << 24
_DEFAULTS_SINCE = 4
"""Before this IR version, an initializer was listed as an input and was a constant all the same."""
_RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}


class CannotEvaluate(Exception):
    """The piece cannot be cut out or run; the message says why."""


class Scope:
    """One graph or function body: which node computes a name, which names are constant.

    Args:
        nodes: The nodes, in order.
        constants: Initializers that no caller can replace.
        open_names: Inputs: whatever the caller feeds.
        parent: The scope around it, for subgraphs.
        shapes: Concrete shape by value name, where known.
        folder: Folder of external data.
    """

    def __init__(
        self,
        nodes: Sequence[onnx.NodeProto],
        constants: Mapping[str, onnx.TensorProto],
        open_names: Iterable[str],
        parent: Scope | None,
        shapes: Mapping[str, tuple[int, ...]],
        folder: pathlib.Path | None = None,
    ) -> None:
        self.folder = folder
        self.nodes = nodes
        self.constants = constants
        self.parent = parent
        self.shapes = shapes
        self.producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
        self.varying = set(open_names)
        for node in nodes:
            is_size = node.op_type == "Shape" and node.input[0] in shapes
            if not is_size and (node.op_type in _RANDOM or any(map(self.varies, graph_walk.uses(node)))):
                self.varying.update(node.output)

    def varies(self, name: str) -> bool:
        """Whether the value depends on what the caller feeds."""
        if name in self.producer or name in self.constants or name in self.varying:
            return name in self.varying
        return self.parent is None or self.parent.varies(name)

    def home(self, name: str) -> Scope:
        """The scope, this one or one around it, that computes, holds or is fed the name."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.producer or name in scope.constants or name in scope.varying:
                return scope
            scope = scope.parent
        return self

    def array(self, name: str) -> np.ndarray:
        """A constant of this scope, read from its file where it is external."""
        tensor = self.constants[name]
        if math.prod(tensor.dims) > _MAX_CONSTANT_ELEMENTS:
            raise CannotEvaluate(f"constant {name!r} of shape {list(tensor.dims)} is too large to be part of it")
        if not external_data.is_external(tensor):
            return numpy_helper.to_array(tensor)
        if self.folder is None:
            raise CannotEvaluate(f"constant {name!r} lies in external data")
        return external_data.read(tensor, self.folder)

    def defines(self, name: str) -> bool:
        home = self.home(name)
        return name in home.producer or name in home.constants or name in home.varying

    def depends(self, name: str, x: str, memo: dict[str, bool]) -> bool:
        """Whether `name` is computed from `x`. Nodes before the one that computes x are not looked at."""
        first = self.producer.get(x, -1)
        pending = [name]
        while pending:
            top = pending[-1]
            if top in memo:
                pending.pop()
                continue
            home = self.home(top)
            index = home.producer.get(top)
            if top == x or index is None or (home is self and index <= first):
                memo[top] = top == x
                continue
            inputs = graph_walk.uses(home.nodes[index])
            unknown = [value for value in inputs if value not in memo]
            if unknown:
                pending.extend(unknown)
                continue
            memo[top] = any(memo[value] for value in inputs)
        return memo[name]


def scopes(
    proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], folder: pathlib.Path | None = None
) -> dict[tuple[str, ...], Scope]:
    """All graphs and functions by a key that survives a rewrite: the names of values and attributes on the way in."""
    found: dict[tuple[str, ...], Scope] = {}

    def add_graph(graph: onnx.GraphProto, key: tuple[str, ...], parent: Scope | None) -> None:
        inputs = {value.name for value in graph.input}
        if proto.ir_version < _DEFAULTS_SINCE:
            inputs -= {tensor.name for tensor in graph.initializer}
        constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in inputs}
        small = (t for t in graph.sparse_initializer if math.prod(t.dims) <= _MAX_CONSTANT_ELEMENTS)
        constants |= {tensor.values.name: sparse.dense(tensor) for tensor in small if not _lies_outside(tensor)}
        scope = Scope(graph.node, constants, inputs, parent, shapes, folder)
        found[key] = scope
        add_subgraphs(graph.node, key, scope)

    def add_subgraphs(nodes: Iterable[onnx.NodeProto], key: tuple[str, ...], scope: Scope) -> None:
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    add_graph(attribute.g, (*key, *node.output[:1], attribute.name), scope)

    add_graph(proto.graph, (), None)
    for function in proto.functions:
        key = ("function", *graph_walk.key_of(function))
        # Value names in a function say nothing about shapes: it may be called with several.
        found[key] = Scope(function.node, {}, function.input, None, {})
        add_subgraphs(function.node, key, found[key])
    return found


def _lies_outside(tensor: onnx.SparseTensorProto) -> bool:
    return any(map(external_data.is_external, (tensor.values, tensor.indices)))


def iterate(
    found: Mapping[tuple[str, ...], Scope],
) -> Iterator[tuple[tuple[str, ...], Scope, onnx.NodeProto]]:
    for key, scope in found.items():
        for node in scope.nodes:
            yield key, scope, node
