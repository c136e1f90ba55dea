"""A model's configuration for NVIDIA Triton Inference Server, `config.pbtxt`.

The fields are those of `ModelConfig` in Triton's model_config.proto; the rules (which types and shapes the server
compares with the model's, how scalars are written) are those of its onnxruntime backend.
Imports: numpy, onnx, onnx_ir.
"""

from __future__ import annotations

import dataclasses

import onnx
import onnx_ir as ir

from gn_onnx.errors import GnOnnxError
from gn_onnx.files import model_io
from gn_onnx.recognition import shape_inference
from gn_onnx.recognition.model_view import ModelView

KINDS = ("auto", "gpu", "cpu")

DEFAULT_MAX_BATCH_SIZE = 8

_TYPES: dict[int, str] = {
    onnx.TensorProto.BOOL: "TYPE_BOOL",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.UINT16: "TYPE_UINT16",
    onnx.TensorProto.UINT32: "TYPE_UINT32",
    onnx.TensorProto.UINT64: "TYPE_UINT64",
    onnx.TensorProto.INT8: "TYPE_INT8",
    onnx.TensorProto.INT16: "TYPE_INT16",
    onnx.TensorProto.INT32: "TYPE_INT32",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.DOUBLE: "TYPE_FP64",
    onnx.TensorProto.STRING: "TYPE_STRING",
    onnx.TensorProto.BFLOAT16: "TYPE_BF16",
}

Dims = tuple[int | str, ...]
"""Sizes: a number, or the name of a symbol ("" where it has none)."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of the model, `dims` with the batch."""

    name: str
    data_type: str
    dims: Dims
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the user chooses.

    Attributes:
        name: Name of the model, which is its folder's.
        library: Path of the operator library, as the server sees it.
        max_batch_size: None: decided by the model; 0: no batching.
        instances: Copies of the model, for each GPU or on the CPU.
        kind: One of `KINDS`; "auto" takes the GPUs if there are any.
        max_queue_delay: Microseconds that a request may wait for others to join it.
    """

    name: str
    library: str
    max_batch_size: int | None = None
    instances: int = 1
    kind: str = "auto"
    max_queue_delay: int = 100


@dataclasses.dataclass(frozen=True)
class Config:
    """`text` is config.pbtxt; `reason` says why there is no batching, "" where there is."""

    text: str
    max_batch_size: int
    reason: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def make(proto: onnx.ModelProto, settings: Settings) -> Config:
    """The configuration of a model.

    Raises:
        GnOnnxError: An input or output has no tensor type or shape that Triton has, or batching was asked for and the
            first dimension of one is fixed.
    """
    inputs, outputs = tensors(proto)
    reason = why_not_batched(inputs, outputs)
    size = settings.max_batch_size
    if size is None:
        size = 0 if reason else DEFAULT_MAX_BATCH_SIZE
    elif size > 0:
        for tensor in (*inputs, *outputs):
            if not tensor.dims or isinstance(tensor.dims[0], int):
                raise GnOnnxError(f"max batch size {size}: the first dimension of {tensor.name!r} is not symbolic")
        reason = ""
    else:
        reason = "asked for none"
    text = _text(settings, size, inputs, outputs)
    return Config(text, size, reason if size == 0 else "", inputs, outputs)


def tensors(proto: onnx.ModelProto) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and outputs with what the file says of them and what shape inference finds."""
    model = model_io.to_ir(proto)
    view = ModelView(model)
    inferred = {value.name: view.inferred(value) for value in model.graph.outputs}
    constants = {tensor.name for tensor in proto.graph.initializer}
    # Before IR version 4 every initializer is listed as an input; since then a listed one is a default value.
    listed = [value for value in proto.graph.input if proto.ir_version >= 4 or value.name not in constants]
    inputs = tuple(_tensor(value, None, optional=value.name in constants) for value in listed)
    return inputs, tuple(_tensor(value, inferred.get(value.name)) for value in proto.graph.output)


def _tensor(value: onnx.ValueInfoProto, inferred: shape_inference.Inferred | None, *, optional: bool = False) -> Tensor:
    kind = value.type.WhichOneof("value")
    if kind not in ("tensor_type", None):
        raise GnOnnxError(f"{value.name!r} is a {str(kind).removesuffix('_type')}, and Triton takes tensors only")
    dtype = value.type.tensor_type.elem_type or (inferred.dtype.value if inferred else 0)
    if dtype not in _TYPES:
        name = ir.DataType(dtype).name if dtype in ir.DataType.__members__.values() else str(dtype)
        raise GnOnnxError(f"{value.name!r} has element type {name}, which Triton does not have")
    declared: Dims | None = None
    if value.type.tensor_type.HasField("shape"):
        declared = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim
        )
    found: Dims | None = None
    if inferred is not None and inferred.sizes is not None:
        found = tuple(size.static if size.static is not None else str(size) for size in inferred.sizes)
    dims = declared if found is None else found
    if declared is not None and found is not None and len(declared) == len(found):
        # Exporters make up new names for sizes of outputs: what inference follows from the inputs says more.
        dims = tuple(old if isinstance(old, int) else new for old, new in zip(declared, found, strict=True))
    if dims is None:
        raise GnOnnxError(f"the shape of {value.name!r} is not known; Triton needs its number of dimensions")
    return Tensor(value.name, _TYPES[dtype], dims, optional)


def why_not_batched(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> str:
    """Empty where the first dimension of all tensors is one and the same symbol: the batch.

    Outputs of a detector, say, have a symbolic first dimension too: the number of detections, which is no batch.
    """
    if not inputs:
        return "the model has no inputs"
    for tensor in (*inputs, *outputs):
        if not tensor.dims:
            return f"{tensor.name!r} is a scalar"
        if isinstance(tensor.dims[0], int):
            return f"the first dimension of {tensor.name!r} is {tensor.dims[0]}"
        if not tensor.dims[0] or tensor.dims[0] != inputs[0].dims[0]:
            return f"the first dimension of {tensor.name!r} is not known to be that of {inputs[0].name!r}"
    return ""


def _text(settings: Settings, max_batch_size: int, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> str:
    lines = [
        f"name: {quoted(settings.name)}",
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        f"max_batch_size: {max_batch_size}",
    ]
    for field, group in (("input", inputs), ("output", outputs)):
        for tensor in group:
            lines += [f"{field} {{", *_tensor_lines(tensor, batched=max_batch_size > 0), "}"]
    lines += ["instance_group {", f"  count: {settings.instances}", f"  kind: KIND_{settings.kind.upper()}", "}"]
    if max_batch_size > 0:
        lines += ["dynamic_batching {", f"  max_queue_delay_microseconds: {settings.max_queue_delay}", "}"]
    lines += ["model_operations {", f"  op_library_filename: {quoted(settings.library)}", "}"]
    return "\n".join(lines) + "\n"


def _tensor_lines(tensor: Tensor, *, batched: bool) -> list[str]:
    dims = [size if isinstance(size, int) else -1 for size in (tensor.dims[1:] if batched else tensor.dims)]
    lines = [f"  name: {quoted(tensor.name)}", f"  data_type: {tensor.data_type}"]
    # A server's tensor has one dimension at least: a scalar is one of size 1, and [N] in a batch is [N, 1] reshaped.
    lines.append(f"  dims: [ {', '.join(map(str, dims or [1]))} ]")
    if not dims and batched:
        lines.append("  reshape { shape: [ ] }")
    if tensor.optional:
        lines.append("  optional: true")
    return lines


def quoted(text: str) -> str:
    """As a string of protobuf's text format."""
    escaped = (f"\\{c}" if c in '"\\' else c if c.isprintable() else _octal(c) for c in text)
    return f'"{"".join(escaped)}"'


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
