"""Generated inputs for any model: the three kinds of data on which normalisations differ.

    ordinary      N(0, 1)
    low variance  standard deviation near sqrt(epsilon): shows an epsilon that was lost or moved
    large mean    mean far above the standard deviation: shows variances computed as E[x^2] - E[x]^2

Sizes that a model leaves open are chosen by name, small, and the same for the same name.
Imports: numpy, onnx.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import onnx

from gn_onnx.errors import GnOnnxError

KINDS = ("ordinary", "low variance", "large mean")

_MEAN_AND_STD = {"ordinary": (0.0, 1.0), "low variance": (0.5, 3e-3), "large mean": (1e4, 1.0)}
_LARGE_MEAN_OF_SHORT_TYPES = 128.0
"""float16 and bfloat16 have 11 and 8 bits: at 1e4 a standard deviation of 1 would be rounded away."""

_MAX_ELEMENTS = 1 << 28
_BATCH_NAMES = ("n", "b", "batch", "batch_size", "bs")


@dataclasses.dataclass(frozen=True)
class GraphInput:
    """A graph input that the caller must feed: dims are sizes, names of sizes, or None where nothing is known."""

    name: str
    element_type: int
    dims: tuple[int | str | None, ...] | None

    @property
    def numpy_type(self) -> np.dtype[np.generic]:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.element_type))


def graph_inputs(proto: onnx.ModelProto) -> list[GraphInput]:
    """Graph inputs without a default value.

    Raises:
        GnOnnxError: An input is not a tensor, or is a tensor of strings.
    """
    defaults = {tensor.name for tensor in proto.graph.initializer}
    found = []
    for value in proto.graph.input:
        if value.name in defaults:
            continue
        tensor = value.type.tensor_type
        if value.type.WhichOneof("value") != "tensor_type" or tensor.elem_type in (
            0,
            onnx.TensorProto.STRING,
        ):
            raise GnOnnxError(f"graph input {value.name!r} is not a tensor of numbers: cannot make data for it")
        found.append(GraphInput(value.name, tensor.elem_type, _dims(tensor) if tensor.HasField("shape") else None))
    return found


def _dims(tensor: onnx.TypeProto.Tensor) -> tuple[int | str | None, ...]:
    return tuple(dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim)


def input_shapes(proto: onnx.ModelProto, overrides: Mapping[str, Sequence[int]] | None = None) -> dict[str, tuple[int, ...]]:
    """A concrete shape for each graph input.

    Args:
        proto: The model.
        overrides: Shapes by input name; the sizes that they give to names of dims hold for other inputs too.

    Raises:
        GnOnnxError: An override names no input or contradicts the model, an input's rank is not known, or the
            tensor would be too large.
    """
    overrides = overrides or {}
    inputs = graph_inputs(proto)
    if unknown := sorted(set(overrides) - {value.name for value in inputs}):
        raise GnOnnxError(f"no graph input {unknown[0]!r}; the inputs are {[value.name for value in inputs]}")
    sizes: dict[str, int] = {}
    for value in inputs:
        if value.name in overrides:
            _apply_override(value, tuple(overrides[value.name]), sizes)
    shapes = {}
    for value in inputs:
        if value.name in overrides:
            shapes[value.name] = tuple(overrides[value.name])
            continue
        if value.dims is None:
            raise GnOnnxError(f"the rank of graph input {value.name!r} is not known: give its shape with --shape")
        shape = []
        for axis, dim in enumerate(value.dims):
            key = dim if isinstance(dim, str) else f"{value.name}.{axis}"
            if not isinstance(dim, int) and key not in sizes:
                sizes[key] = _choose_size(proto, value, axis)
            shape.append(dim if isinstance(dim, int) else sizes[key])
        if any(size < 0 for size in shape) or math.prod(shape) > _MAX_ELEMENTS:
            raise GnOnnxError(f"graph input {value.name!r} of shape {shape} is too large to make data for")
        shapes[value.name] = tuple(shape)
    return shapes


def _apply_override(value: GraphInput, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    dims = value.dims if value.dims is not None else (None,) * len(shape)
    if len(dims) != len(shape) or any(isinstance(d, int) and d != size for d, size in zip(dims, shape, strict=False)):
        raise GnOnnxError(f"graph input {value.name!r} has shape {list(dims)}, not {list(shape)}")
    if math.prod(shape) > _MAX_ELEMENTS:
        raise GnOnnxError(f"graph input {value.name!r} of shape {list(shape)} is too large to make data for")
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
            raise GnOnnxError(f"size {dim!r} is {sizes[dim]} and {size} at once")


def _choose_size(proto: onnx.ModelProto, value: GraphInput, axis: int) -> int:
    """Batch 2, channels as the weights want them, space 64 (48 and 40 for further axes would break square models)."""
    assert value.dims is not None
    rank = len(value.dims)
    name = value.dims[axis]
    if axis == 0 or (isinstance(name, str) and name.lower() in _BATCH_NAMES):
        return 2
    if axis == 1 and (channels := _channels(proto, value.name)):
        return channels
    return 64 if rank == 4 else 32


def _channels(proto: onnx.ModelProto, name: str) -> int | None:
    """Channels that the first convolution wants, else the length of the first per-channel constant."""
    dims = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Conv" and node.input[0] == name and len(dims.get(node.input[1], ())) > 1:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            return int(dims[node.input[1]][1] * group)
    per_channel = [
        math.prod(shape)
        for tensor, shape in dims.items()
        if shape and math.prod(shape) == max(shape) > 1 and _is_float(proto, tensor)
    ]
    return max(per_channel, default=None)


def _is_float(proto: onnx.ModelProto, name: str) -> bool:
    kinds = (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.BFLOAT16,
    )
    return any(tensor.name == name and tensor.data_type in kinds for tensor in proto.graph.initializer)


def make_inputs(
    proto: onnx.ModelProto, kind: str, *, shapes: Mapping[str, Sequence[int]] | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Feeds for every graph input; the same arguments give the same numbers.

    Args:
        proto: The model.
        kind: One of `KINDS`, for the floating-point inputs. Integers are 0 or 1, so that they are valid
            indices, steps and class numbers everywhere; masks are all ones, because an empty mask makes NaN.
        shapes: Overrides, see `input_shapes`.
        seed: Of the generator.

    Raises:
        GnOnnxError: As `graph_inputs` and `input_shapes`.
    """
    concrete = input_shapes(proto, shapes)
    return {
        value.name: _make(value, concrete[value.name], kind, np.random.default_rng([seed, zlib.crc32(value.name.encode())]))
        for value in graph_inputs(proto)
    }  # fmt: skip


def _make(value: GraphInput, shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> np.ndarray:
    dtype = value.numpy_type
    if dtype.kind == "b" or (dtype.kind in "iu" and "mask" in value.name.lower()):
        return np.ones(shape, dtype)
    if dtype.kind in "iu":
        return rng.integers(0, 2, shape).astype(dtype)
    mean, std = _MEAN_AND_STD[kind]
    if dtype == np.float16 or dtype == ml_dtypes.bfloat16:
        mean = min(mean, _LARGE_MEAN_OF_SHORT_TYPES)
    data: np.ndarray = (rng.standard_normal(shape) * std + mean).astype(dtype)
    return data


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`name=1,3,320,320` to a shape by name.

    Raises:
        GnOnnxError: Another form.
    """
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        if not name or not all(size.isascii() and size.isdigit() for size in sizes.split(",")):
            raise GnOnnxError(f"--shape {text!r}: expected NAME=1,3,320,320")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    return shapes
