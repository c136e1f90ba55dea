"""Shapes that follow from shapes: TorchScript's chunk computes the ends of its Slices from Shape by Add, Div and Mul.

ONNX's inference carries no values through a division, and multiplies no unknown sizes: what -1 stands for in a Reshape
of [N, 4, 32, H, W] to [4 * N, -1, H, W], it does not see. Where shape arithmetic (integers.py) knows an input that
decides a shape, or a dimension of a Reshape's result, inference goes on from that number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from gn_onnx.recognition import integers
from gn_onnx.recognition.layout import LayoutError, free_dim, resolve_target
from gn_onnx.recognition.model_view import STANDARD_DOMAINS, ModelView
from gn_onnx.recognition.shape_inference import READS_CONSTANTS, Dimensions
from gn_onnx.recognition.sizes import Size

_MAX_ROUNDS = 4
"""One chunk behind another needs another round."""


_MOST = 1 << 63
"""A file holds a dimension in 64 bits."""


class _Arithmetic:
    """Shape arithmetic by the shapes that the view knows (an `integers.Context`)."""

    scope = ""

    def __init__(self, view: ModelView) -> None:
        self.view = view
        self._known: dict[ir.Value, np.ndarray | None] = {}

    def shape(self, value: ir.Value) -> tuple[Size, ...] | None:
        return self.view.shape(value)

    def constant(self, value: ir.Value) -> np.ndarray | None:
        return self.view.constant(value)

    def attribute(self, node: ir.Node, name: str) -> ir.Attr | None:
        attribute = node.attributes.get(name)
        return None if attribute is None or attribute.is_ref() else attribute

    def is_set(self, node: ir.Node, name: str) -> bool:
        attribute = self.attribute(node, name)
        return attribute is not None and bool(attribute.as_int())

    def integers(self, value: ir.Value | None) -> np.ndarray | None:
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = None  # cut cycles
            self._known[value] = integers.evaluate(self, value)
        return self._known[value]


def follow_shapes(view: ModelView) -> None:
    """Lets the view know every shape that follows from others (those in bodies of functions apart)."""
    known: dict[ir.Value, np.ndarray] = {}
    reshaped: dict[ir.Value, Dimensions] = {}
    _follow_windows(view)
    for _ in range(_MAX_ROUNDS):
        arithmetic = _Arithmetic(view)
        numbers = _computed(arithmetic, known)
        dimensions = _reshaped(arithmetic, reshaped)
        if not numbers and not dimensions:
            return
        known |= numbers
        reshaped |= dimensions
        view.infer_from(known, reshaped)
        _follow_windows(view)


def _follow_windows(view: ModelView) -> None:
    """Behind a Conv or a pooling that keeps the sizes of the map, inference names them anew where it does not know them."""
    for node in view.model.graph:
        if node.op_type not in _WINDOWS or node.domain not in STANDARD_DOMAINS or not _keeps_sizes(node):
            continue
        before = None if node.inputs[0] is None else view.shape(node.inputs[0])
        after = view.shape(node.outputs[0])
        for own, new in zip((before or ())[2:], (after or ())[2:], strict=False):
            if own != new and len(new.symbols) == 1 and new == Size.symbol(new.symbols[0][0]):
                view.name_the_same(new.symbols[0][0], own)


_WINDOWS = ("Conv", "MaxPool", "AveragePool")


def _keeps_sizes(node: ir.Node) -> bool:
    """Whether the windows move by 1, and the map is padded by what they reach over its border."""
    given = node.attributes
    if any(attribute.is_ref() for attribute in given.values()) or "kernel_shape" not in given:
        return False
    kernel = given["kernel_shape"].as_ints()
    if "strides" in given and set(given["strides"].as_ints()) != {1}:
        return False
    automatic = given["auto_pad"].as_string() if "auto_pad" in given else "NOTSET"
    if automatic != "NOTSET":
        return automatic in ("SAME_UPPER", "SAME_LOWER")
    pads = given["pads"].as_ints() if "pads" in given else [0] * (2 * len(kernel))
    dilations = given["dilations"].as_ints() if "dilations" in given else [1] * len(kernel)
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=False)]
    return [a + b for a, b in zip(pads, pads[len(kernel) :], strict=False)] == reach


def _open_nodes(view: ModelView) -> Iterator[ir.Node]:
    """The nodes outside functions that take a shape from an input, and whose result's shape is not all known."""
    for node in view.position:
        if node.op_type in READS_CONSTANTS and node.graph not in view.body_of and _is_open(view, node.outputs[0]):
            yield node


def _computed(arithmetic: _Arithmetic, known: Mapping[ir.Value, np.ndarray]) -> dict[ir.Value, np.ndarray]:
    """Integer tensors that decide an unknown shape, and are numbers after all."""
    view = arithmetic.view
    found: dict[ir.Value, np.ndarray] = {}
    for node in _open_nodes(view):
        for value in node.inputs[1:]:
            if value is None or value in known or value.producer() is None or view.is_weights(value):
                continue
            array = arithmetic.integers(value)
            if array is not None and all(isinstance(size, Size) and size.static is not None for size in array.ravel()):
                found[value] = np.array([size.static for size in array.ravel()], np.int64).reshape(array.shape)
    return found


def _reshaped(arithmetic: _Arithmetic, known: Mapping[ir.Value, Dimensions]) -> dict[ir.Value, Dimensions]:
    """Results of Reshape of which the view knows less than their targets tell."""
    view = arithmetic.view
    found: dict[ir.Value, Dimensions] = {}
    for node in _open_nodes(view):
        output = node.outputs[0]
        if node.op_type != "Reshape" or len(node.inputs) < 2 or node.inputs[0] is None or output in known:
            continue
        shape, target = view.shape(node.inputs[0]), arithmetic.integers(node.inputs[1])
        if shape is None or target is None or target.ndim != 1 or not all(isinstance(size, Size) for size in target):
            continue
        layout = [free_dim(size) for size in shape]
        try:
            sizes = resolve_target(layout, list(target), allow_zero=arithmetic.is_set(node, "allowzero"))
        except LayoutError:  # for the walk to explain, if it gets here
            continue
        now = view.shape(output) or ()
        dimensions = tuple(size.static for size in sizes)
        if any(size is not None and not 0 <= size < _MOST for size in dimensions):
            continue  # no Reshape that could run
        if any(size is not None and (i >= len(now) or now[i].static is None) for i, size in enumerate(dimensions)):
            found[output] = dimensions
    return found


def _is_open(view: ModelView, value: ir.Value) -> bool:
    shape = view.shape(value)
    return shape is None or any(size.static is None for size in shape)
