"""Shapes that follow from shapes: TorchScript's chunk computes the ends of its Slices from Shape by Add, Div and Mul.

ONNX's inference carries no values through a division. Where shape arithmetic (integers.py) knows an input that decides
a shape, inference goes on from that number.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gn_onnx.recognition import integers
from gn_onnx.recognition.model_view import ModelView
from gn_onnx.recognition.shape_inference import READS_CONSTANTS
from gn_onnx.recognition.sizes import Size

_MAX_ROUNDS = 4
"""One chunk behind another needs another round."""


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
    for _ in range(_MAX_ROUNDS):
        more = _computed(view, known)
        if not more:
            return
        known |= more
        view.infer_from(known)


def _computed(view: ModelView, known: dict[ir.Value, np.ndarray]) -> dict[ir.Value, np.ndarray]:
    """Integer tensors that decide an unknown shape, and are numbers after all."""
    arithmetic = _Arithmetic(view)
    found: dict[ir.Value, np.ndarray] = {}
    for node in view.position:
        if node.op_type not in READS_CONSTANTS or node.graph in view.body_of or not _is_open(view, node.outputs[0]):
            continue
        for value in node.inputs[1:]:
            if value is None or value in known or value.producer() is None or view.is_weights(value):
                continue
            array = arithmetic.integers(value)
            if array is not None and all(isinstance(size, Size) and size.static is not None for size in array.ravel()):
                found[value] = np.array([size.static for size in array.ravel()], np.int64).reshape(array.shape)
    return found


def _is_open(view: ModelView, value: ir.Value) -> bool:
    shape = view.shape(value)
    return shape is None or any(size.static is None for size in shape)
