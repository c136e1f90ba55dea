"""Small helpers to add nodes and constants to a graph or function, with names that nothing else has."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from gn_onnx.group_norm import PerChannel

_MAX_SHARED_ELEMENTS = 1 << 16
_NUMPY_SIZES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)
_CONSTANT_OF_SHAPE_BFLOAT16 = 20

_Key = tuple[ir.DataType, tuple[int, ...], bytes]


def _elements(value: ir.Value) -> int | None:
    """Number of elements, None where it is not annotated."""
    dims = None if value.shape is None else [dim for dim in value.shape if isinstance(dim, int)]
    return math.prod(dims) if dims is not None and value.shape is not None and len(dims) == len(value.shape) else None


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes of the graph, of the graphs inside it, and of functions."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


class Namer:
    """Names that no value or node of the model has; the same ones in every run."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
        for container in (model.graph, *(function.graph for function in model.functions.values())):
            for graph in (container, *container.subgraphs()):
                self._taken.update(value.name or "" for value in graph.inputs)
                self._taken.update(graph.initializers)
            for node in container.all_nodes():
                self._taken.update(value.name or "" for value in node.outputs)
                self._taken.add(node.name or "")

    def fresh(self, name: str) -> str:
        candidate, count = name, 0
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._taken.add(candidate)
        return candidate


class Constants:
    """Small tensors of a graph, shared: a vector that holds the same bits already is used again."""

    def __init__(self, namer: Namer) -> None:
        self.namer = namer
        self._known: dict[ir.Graph, dict[_Key, ir.Value]] = {}

    def tensor(self, graph: ir.Graph, array: np.ndarray, dtype: ir.DataType, name: str) -> ir.Value:
        """An initializer of `graph` with these elements, rounded to `dtype`."""
        tensor = ir.Tensor(array.astype(dtype.numpy()), dtype=dtype)
        known = self._index(graph)
        key = (dtype, array.shape, tensor.tobytes())
        value = known.get(key)
        if value is None or value.name not in graph.initializers:
            tensor.name = self.namer.fresh(name)
            value = ir.Value(name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(dtype), const_value=tensor)
            graph.register_initializer(value)
            known[key] = value
        return value

    def _index(self, graph: ir.Graph) -> dict[_Key, ir.Value]:
        if graph not in self._known:
            known: dict[_Key, ir.Value] = {}
            self._known[graph] = known
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is None or value.is_graph_input() or len(tensor.shape) != 1:
                    continue
                if tensor.dtype in _NUMPY_SIZES and tensor.size <= _MAX_SHARED_ELEMENTS:
                    with contextlib.suppress(OSError, ValueError):  # external data that is not there
                        known.setdefault((tensor.dtype, (tensor.size,), tensor.tobytes()), value)
        return self._known[graph]


class Builder:
    """Collects the nodes that replace one site; `nodes` is inserted by the caller."""

    def __init__(
        self,
        graph: ir.Graph,
        prefix: str,
        constants: Constants,
        dtype: ir.DataType,
        opset: int,
        *,
        in_function: bool,
    ) -> None:
        self.graph = graph
        self.in_function = in_function
        self.prefix = prefix
        self.constants = constants
        self.dtype = dtype
        self.opset = opset
        self.nodes: list[ir.Node] = []

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value],
        name: str,
        dtype: ir.DataType | None = None,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """Appends a node with one output, of element type `dtype` or else the builder's own."""
        node = ir.node(op, inputs, attributes, domain=domain, name=self.constants.namer.fresh(f"{self.prefix}/{name}"))
        node.outputs[0].name = self.constants.namer.fresh(f"{self.prefix}/{name}_output")
        node.outputs[0].type = ir.TensorType(dtype or self.dtype)
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, array: np.ndarray, dtype: ir.DataType, name: str) -> ir.Value:
        """A small tensor: an initializer of a graph, a Constant node in a function (which has no initializers)."""
        if not self.in_function:
            return self.constants.tensor(self.graph, array, dtype, f"{self.prefix}/{name}")
        return self.node("Constant", [], name, dtype, value=ir.Tensor(array.astype(dtype.numpy()), dtype=dtype))

    def with_axes(self, op: str, x: ir.Value, axes: Sequence[int], name: str) -> ir.Value:
        """Squeeze or Unsqueeze, whose axes became an input in opset 13."""
        if self.opset < 13:
            return self.node(op, [x], name, axes=axes)
        return self.node(op, [x, self.ints(axes, f"{name}_axes")], name)

    def ints(self, values: Sequence[int], name: str) -> ir.Value:
        return self.constant(np.asarray(values, np.int64), ir.DataType.INT64, name)

    def per_channel(self, value: PerChannel, num_channels: int | None, x: ir.Value, axis: int, name: str) -> ir.Value:
        """A [C] tensor of the element type of x; `axis` is the axis of x that has the channels."""
        fixed = value.constant_value
        if fixed is not None and num_channels is not None:
            return self.constant(np.broadcast_to(fixed, (num_channels,)), self.dtype, name)
        if fixed is not None:
            return self._filled_like_channels(float(fixed), x, axis, name)
        total: ir.Value | None = None
        full = False
        for coefficient, tensors in value.terms:
            term: ir.Value | None = None
            for tensor in tensors:
                full = full or _elements(tensor) == num_channels
                vector = self._flat(tensor, name)
                term = vector if term is None else self.node("Mul", [term, vector], f"{name}_product")
            if term is None or coefficient.ndim or coefficient != 1.0:
                full = full or coefficient.ndim == 1
                factor = self.constant(np.atleast_1d(coefficient), self.dtype, f"{name}_factor")
                term = factor if term is None else self.node("Mul", [term, factor], f"{name}_scaled")
            total = term if total is None else self.node("Add", [total, term], f"{name}_sum")
        assert total is not None, "a value without terms is constant"
        if not full:
            length = self._length(x, axis, name) if num_channels is None else self.ints([num_channels], f"{name}_channels")
            total = self.node("Expand", [total, length], f"{name}_expanded")
        return total

    def _flat(self, tensor: ir.Value, name: str) -> ir.Value:
        if tensor.dtype != self.dtype:
            tensor = self.node("Cast", [tensor], f"{name}_cast", to=self.dtype.value)
        if tensor.shape is None or len(tensor.shape) != 1:
            tensor = self.node("Reshape", [tensor, self.ints([-1], "flat")], f"{name}_flat")
        return tensor

    def _filled_like_channels(self, number: float, x: ir.Value, axis: int, name: str) -> ir.Value:
        """A vector of one number, as long as x has channels, known at run time only."""
        length = self._length(x, axis, name)
        bfloat16 = self.dtype == ir.DataType.BFLOAT16 and self.opset < _CONSTANT_OF_SHAPE_BFLOAT16
        kind = ir.DataType.FLOAT if bfloat16 else self.dtype
        fill = ir.Tensor(np.asarray([number]).astype(kind.numpy()), dtype=kind)
        filled = self.node("ConstantOfShape", [length], name, kind, value=fill)
        return self.node("Cast", [filled], f"{name}_cast", to=self.dtype.value) if bfloat16 else filled

    def _length(self, x: ir.Value, axis: int, name: str) -> ir.Value:
        """How many channels x has, known at run time only: int64, [1]."""
        shape = self.node("Shape", [x], f"{name}_shape", ir.DataType.INT64)
        if axis < 0:
            last = self.node("Shape", [shape], f"{name}_rank", ir.DataType.INT64)
            index = self.node("Add", [last, self.ints([-1], "minus_one")], f"{name}_axis", ir.DataType.INT64)
        else:
            index = self.ints([axis], "channel_axis")
        return self.node("Gather", [shape, index], f"{name}_length", ir.DataType.INT64, axis=0)
