"""ONNX files whose large weights are drawn where they are used: a model of gigabytes travels as a file of megabytes.

The weights are external data in a file that does not travel; each tensor says in its doc_string how it is drawn. What
is drawn depends on the file alone. Imports: numpy, onnx.
"""

from __future__ import annotations

import math
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

LOCATION = "weights.bin"
"""The data file, beside the model."""

MIN_ELEMENTS = 8192
"""Smaller tensors keep their values in the model."""

_PREFIX = "drawn from a normal distribution, standard deviation "
_VARIANCE_GAIN = 0.5
"""Of an operator's output over its input. Below 1, or deep residual networks without normalisation leave float16."""
_TABLE = 1 << 22
_ALIGNMENT = 64
_FAN_IN_AXES = {"Conv": slice(1, None), "MatMul": slice(-2, -1), "Gemm": slice(-2, -1)}


def take_out(model: onnx.ModelProto) -> int:
    """Replace the large float16 weights of convolutions and products by descriptions, in place.

    Returns:
        The bytes that the weights take when they are drawn.
    """
    users = {node.input[1]: node for node in model.graph.node if node.op_type in _FAN_IN_AXES}
    offset = 0
    for tensor in model.graph.initializer:
        user = users.get(tensor.name)
        if user is None or tensor.data_type != TensorProto.FLOAT16 or math.prod(tensor.dims) < MIN_ELEMENTS:
            continue
        offset = -(-offset // _ALIGNMENT) * _ALIGNMENT
        length = 2 * math.prod(tensor.dims)
        deviation = math.sqrt(_VARIANCE_GAIN / _fan_in(user, list(tensor.dims)))
        for field in ("raw_data", "int32_data"):
            tensor.ClearField(field)
        tensor.doc_string = f"{_PREFIX}{deviation!r}"
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", LOCATION), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        offset += length
    return offset


def _fan_in(user: onnx.NodeProto, shape: list[int]) -> int:
    transposed = user.op_type == "Gemm" and any(a.name == "transB" and a.i for a in user.attribute)
    return math.prod(shape[-1:] if transposed else shape[_FAN_IN_AXES[user.op_type]])


def draw(model: onnx.ModelProto, folder: pathlib.Path) -> None:
    """Write the weights that `take_out` described to `folder` / LOCATION.

    The numbers come from one table, read from another place for each tensor: 860 million take seconds that way.
    """
    table = np.random.Generator(np.random.SFC64(0)).standard_normal(_TABLE, dtype=np.float32)
    with (folder / LOCATION).open("wb") as file:
        for index, tensor in enumerate(model.graph.initializer):
            if not tensor.doc_string.startswith(_PREFIX):
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            file.seek(int(place["offset"]))
            deviation = np.float32(tensor.doc_string.removeprefix(_PREFIX))
            count, start = math.prod(tensor.dims), index * 104729 % _TABLE
            while count > 0:
                piece = table[start : start + count]
                file.write((piece * deviation).astype(np.float16).tobytes())
                count, start = count - len(piece), 0


def total_bytes(model: onnx.ModelProto) -> int:
    """Of the weights that `draw` writes."""
    return sum(2 * math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.doc_string.startswith(_PREFIX))


def small_values(shape: tuple[int, ...], low: float, high: float, seed: int) -> np.ndarray:
    """Uniform float32 values for what stays in the model."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def as_float16(model: onnx.ModelProto) -> None:
    """Every bfloat16 in the model becomes float16, in place.

    PyTorch runs models in bfloat16 on a CPU, for the exporter to look on, a hundred times faster than in float16.
    """
    for tensor in model.graph.initializer:
        _convert(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _convert(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT16
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16


def _convert(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.BFLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
