"""What is known of a model before any algebra: constants, shapes and the order of nodes. Read only.

Shapes come from the model's own annotations and, where those say nothing, from ONNX's shape inference on a copy of
the graph without its weights; the model itself is never annotated, and no large tensor is read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from gn_onnx.recognition.shape_inference import Dimensions, Inferred, Known, infer, infer_function, joined
from gn_onnx.recognition.sizes import Size

MAX_CONSTANT_ELEMENTS = 1 << 20
"""Larger constants are weights, never the scale of a normalisation, and are not read."""

FIRST_IR_VERSION_WITH_DEFAULTS = 4
"""Since this IR version an initializer that is an input too is a default, which the caller may replace."""

STANDARD_DOMAINS = ("", "ai.onnx")
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
"""Operators that may give another result for the same inputs."""
_MAX_FOLD_DEPTH = 100


class ModelView:
    """Read-only look at one model.

    Args:
        model: The model; must not be changed while the view is used.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.functions = dict(model.functions)
        self.position: dict[ir.Node, int] = {}
        self._with_bodies: set[ir.Node] = set()
        self.containers: list[ir.Graph] = []
        self._imports: dict[ir.Node, Mapping[str, int]] = {}
        self._constants: dict[ir.Value, np.ndarray | None] = {}
        self._folded: set[ir.Value] = set()
        # Until IR version 3 every initializer had to be an input too, and was a constant all the same.
        self._inputs_may_be_constant = model.ir_version < FIRST_IR_VERSION_WITH_DEFAULTS
        self._fixed: dict[ir.Value, bool] | None = None
        self._inferred: dict[ir.Graph, Known] | None = None
        self._same_size: dict[str, Size] = {}
        self._inferred_bodies: dict[ir.Function, dict[ir.Graph, Known]] = {}
        self._outer: dict[ir.Graph, ir.Graph] = {}
        self.body_of = {function.graph: function for function in self.functions.values()}
        self._add(model.graph, model.graph.opset_imports)
        for function in self.functions.values():
            self._add(function.graph, function.opset_imports)

    def _add(self, container: ir.Graph, imports: Mapping[str, int]) -> None:
        self.containers.append(container)
        for node in container:
            self.position[node] = len(self.position)
            self._imports[node] = imports
            for graph in subgraphs(node):
                self._with_bodies.add(node)
                self._outer[graph] = container
                self._add(graph, imports)

    def opset_version(self, node: ir.Node) -> int:
        """Version of the node's domain, as its function or else the model imports it; 0 when it is not imported."""
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        imports = self._imports[node]
        return imports.get(domain, imports.get("ai.onnx", 0) if domain == "" else 0)

    def is_fixed(self, value: ir.Value) -> bool:
        """Whether the value is computed from weights, constants and sizes alone, however large (nothing is evaluated)."""
        return self._is_weight(value) or value in self._fixed_values

    def is_of_sizes(self, value: ir.Value) -> bool:
        """Whether the value is computed from sizes, weights and constants, at least one size among them."""
        return self._fixed_values.get(value, False)

    def is_weights(self, value: ir.Value) -> bool:
        """Whether the value is computed from weights and constants alone."""
        return self.is_fixed(value) and not self.is_of_sizes(value)

    @property
    def _fixed_values(self) -> dict[ir.Value, bool]:
        """Results that no data goes into; and whether a size does."""
        if self._fixed is None:
            self._fixed = {}
            for node in self.position:
                pure = node.op_type not in RANDOM and node not in self._with_bodies
                if pure and all(v is None or v in self._fixed or self._is_weight(v) for v in node.inputs):
                    sized = any(v is not None and self._fixed.get(v, False) for v in node.inputs)
                elif node.op_type in ("Shape", "Size") and node.domain in STANDARD_DOMAINS:
                    sized = True
                else:
                    continue
                self._fixed.update(dict.fromkeys(node.outputs, sized))
        return self._fixed

    def _is_weight(self, value: ir.Value) -> bool:
        return value.is_initializer() and (self._inputs_may_be_constant or not value.is_graph_input())

    def constant(self, value: ir.Value) -> np.ndarray | None:
        """The array of a value that is the same in every run, or None.

        An initializer that is also a graph input is not constant: the caller may feed another.
        """
        if value not in self._constants:
            self._constants[value] = None  # cut cycles
            self._constants[value] = self._constant(value)
        return self._constants[value]

    def _constant(self, value: ir.Value) -> np.ndarray | None:
        if value.is_graph_input() and not self._inputs_may_be_constant:
            return None
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.size > MAX_CONSTANT_ELEMENTS:
            return None
        try:
            return np.asarray(tensor.numpy())
        except (OSError, ValueError):  # external data that is not there: then it is a tensor like any other
            return None

    def folded(self, value: ir.Value, depth: int = 0) -> np.ndarray | None:
        """Like `constant`, and also computes a node whose inputs are all constant (small ones only)."""
        array = self.constant(value)
        node = value.producer()
        if array is not None or node is None or value in self._folded or self._fixed_values.get(value, True):
            return array
        if node.domain not in STANDARD_DOMAINS or any(attribute.is_ref() for attribute in node.attributes.values()):
            return None
        if depth > _MAX_FOLD_DEPTH:
            return None
        arrays = [None if v is None else self.folded(v, depth + 1) for v in node.inputs]
        self._folded.add(value)  # once is enough, whatever comes of it
        if not arrays or any(a is None and v is not None for a, v in zip(arrays, node.inputs, strict=True)):
            return None
        array = _run(node, arrays, self.opset_version(node), value)
        if array is not None and array.size > MAX_CONSTANT_ELEMENTS:
            array = None
        self._constants[value] = array
        return array

    def shape(self, value: ir.Value) -> tuple[Size, ...] | None:
        """Sizes of the dimensions, symbols for unknown ones; None when the rank is not known."""
        sizes = self._shape(value)
        return sizes if sizes is None or not self._same_size else tuple(size.substitute(self._same_size) for size in sizes)

    def name_the_same(self, symbol: str, size: Size) -> None:
        """Lets a size that inference gave a name of its own be the one that it was found to equal."""
        self._same_size[symbol] = size

    def _shape(self, value: ir.Value) -> tuple[Size, ...] | None:
        own = _sizes(value)
        if own is not None and all(size.static is not None for size in own):
            return own
        tensor = value.const_value
        if tensor is not None:
            return tuple(Size.of(d) for d in tensor.shape if isinstance(d, int))
        found = self.inferred(value)
        inferred = found.sizes if found is not None else None
        if own is None or inferred is None or len(own) != len(inferred):
            return own if own is not None else inferred
        return tuple(b if a.static is None and b.static is not None else a for a, b in zip(own, inferred, strict=True))

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Element type, annotated or inferred; None when neither knows."""
        if value.dtype is not None:
            return value.dtype
        found = self.inferred(value)
        return found.dtype if found is not None and found.dtype != ir.DataType.UNDEFINED else None

    def infer_from(self, computed: Mapping[ir.Value, np.ndarray], shaped: Mapping[ir.Value, Dimensions]) -> None:
        """Infers shapes once more, knowing what some values are and what shapes some have (bodies of functions apart)."""
        known = {v: (self.dtype(v) or ir.DataType.UNDEFINED, dimensions) for v, dimensions in shaped.items()}
        self._same_size.clear()  # inference gives names anew
        self._inferred = infer(self.model, lambda value: computed[value] if value in computed else self.folded(value), known)

    def inferred(self, value: ir.Value) -> Inferred | None:
        """What shape inference finds, whatever the model itself says."""
        graph = value.graph
        if not isinstance(graph, ir.Graph):
            return None
        outermost = graph
        while outermost in self._outer:
            outermost = self._outer[outermost]
        function = self.body_of.get(outermost)
        if function is None:
            if self._inferred is None:
                self._inferred = infer(self.model, self.folded, {})
            tables = self._inferred
        else:
            if function not in self._inferred_bodies:
                self._inferred_bodies[function] = {}  # a function that calls itself
                self._inferred_bodies[function] = infer_function(self.model, function, self._arguments(function))
            tables = self._inferred_bodies[function]
        return tables[graph].get(value.name or "") if graph in tables else None

    def _arguments(self, function: ir.Function) -> list[Inferred | None]:
        """What all calls of a function agree on about its inputs."""
        calls = [node for node in self.position if node.op_identifier() == function.identifier()]
        known: list[Inferred | None] = []
        for i, parameter in enumerate(function.inputs):
            given = [self._about(node.inputs[i]) if i < len(node.inputs) else None for node in calls]
            name = f"{function.name}.{parameter.name}"
            known.append(functools.reduce(lambda a, b, n=name: joined(a, b, n), given) if given else None)  # type: ignore[misc]
        return known

    def _about(self, value: ir.Value | None) -> Inferred | None:
        if value is None:
            return None
        return Inferred(self.shape(value), self.dtype(value) or ir.DataType.UNDEFINED)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The bodies of an If, Loop or Scan."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _sizes(value: ir.Value) -> tuple[Size, ...] | None:
    if value.shape is None:
        return None
    out = []
    for axis, dim in enumerate(value.shape):
        if isinstance(dim, int):
            out.append(Size.of(dim))
        else:
            out.append(Size.symbol(dim.value if dim.value else f"{value.name}[{axis}]"))
    return tuple(out)


def _run(node: ir.Node, arrays: list[np.ndarray | None], opset: int, output: ir.Value) -> np.ndarray | None:
    """One node on known inputs by ONNX's reference implementation; None where that has no answer."""
    proto = ir.to_proto(node)
    inputs = [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in dict.fromkeys(proto.input) if n]
    outputs = [onnx.helper.make_value_info(output.name or "", onnx.TypeProto())]
    graph = onnx.helper.make_graph([proto], "fold", inputs, outputs)
    feeds = {name: array for name, array in zip(proto.input, arrays, strict=True) if name}
    try:
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        with np.errstate(all="ignore"):
            (result,) = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # the reference raises whatever NumPy raises; an unfoldable node is simply not constant
        return None
    return result if isinstance(result, np.ndarray) else None
