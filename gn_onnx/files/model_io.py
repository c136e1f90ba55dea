"""Read a model for looking into it, and write one: the only place that knows about files and formats.

Reading never loads external data: ONNX IR maps such tensors from disk when somebody looks at one. Whatever
is wrong with a file becomes one `GnOnnxError` that begins with the file's name.
Imports: numpy, onnx, onnx_ir.
"""

from __future__ import annotations

import os
import pathlib
import re
import stat
import warnings

import google.protobuf.json_format  # type: ignore[import-untyped]
import google.protobuf.message  # type: ignore[import-untyped]
import google.protobuf.text_format  # type: ignore[import-untyped]
import onnx
import onnx.parser
import onnx_ir as ir

from gn_onnx.errors import GnOnnxError
from gn_onnx.files import atomic_file, external_data, graph_walk, kept, model_checks, sparse

FORMATS = {
    **dict.fromkeys((".textproto", ".txtpb", ".prototxt", ".pbtxt"), "textproto"),
    **dict.fromkeys((".json", ".onnxjson"), "json"),
    **dict.fromkeys((".onnxtxt", ".onnxtext"), "onnxtxt"),
}
"""Text formats by file name extension; any other extension means binary protobuf."""

_MAX_PROTOBUF_BYTES = (1 << 31) - 1

_MAX_NESTING = 200
"""Of brackets in ONNX's text format, whose parser calls itself for each; protobuf has 100 levels at most."""

_BRACKETS = re.compile(rb'"(?:\\.|[^"\\])*"|#[^\n]*|[(\[{}\])]', re.DOTALL)

# What the parsers of the four formats raise for bytes that are not theirs.
_PARSE_ERRORS = (
    google.protobuf.message.DecodeError,
    google.protobuf.text_format.ParseError,
    google.protobuf.json_format.ParseError,
    onnx.parser.ParseError,
    ValueError,  # UnicodeDecodeError among them
    # What C++'s exceptions become: a number of twenty digits is out of range there.
    IndexError,
    OverflowError,
    MemoryError,
    RuntimeError,  # RecursionError among them
)


def load_proto(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read and check a model; external data stays in its files.

    Raises:
        GnOnnxError: The file is missing, unreadable, empty, truncated or not an ONNX model, its graph is
            broken (`model_checks`), or its external data is missing or lies outside the model's folder.
    """
    path = pathlib.Path(path)
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            # Some never end, and a pipe cannot be read a second time.
            raise GnOnnxError(f"{path}: is a device, pipe or socket, not a file")
        size = status.st_size
        data = path.read_bytes() if size <= _MAX_PROTOBUF_BYTES else b""
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise GnOnnxError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from error
    if size > _MAX_PROTOBUF_BYTES:
        raise GnOnnxError(f"{path}: {size} bytes: larger than protobuf's limit of 2 GB, so not a valid ONNX model")
    if not data:
        raise GnOnnxError(f"{path}: the file is empty")
    format_ = FORMATS.get(path.suffix.lower(), "protobuf")
    if format_ == "onnxtxt" and _nesting(data) > _MAX_NESTING:
        raise GnOnnxError(f"{path}: brackets inside of brackets, more than {_MAX_NESTING} deep: not a valid ONNX model")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # onnx calls its text format experimental on every use
            proto: onnx.ModelProto = onnx.serialization.registry.get(format_).deserialize_proto(data, onnx.ModelProto())
    except _PARSE_ERRORS as error:
        what = "an ONNX model" if format_ == "protobuf" else f"an ONNX model in {format_} format"
        raise GnOnnxError(f"{path}: truncated, or not {what}: {_first_line(error)}") from error
    try:
        model_checks.check(proto)
        graph_walk.sort(proto)
        for place in external_data.references(proto):
            external_data.data_file(place, path.parent)
    except GnOnnxError as error:
        raise GnOnnxError(f"{path}: {error}") from error
    return proto


def _nesting(text: bytes) -> int:
    """How deep brackets stand in one another in ONNX's text format; strings and comments are passed over."""
    depth = deepest = 0
    for found in _BRACKETS.finditer(text):
        word = found.group()
        if word in b"([{":
            depth += 1
            deepest = max(deepest, depth)
        elif word in b")]}":
            depth -= 1
    return deepest


def load_model(path: str | os.PathLike[str]) -> ir.Model:
    """Read and check a model as ONNX IR; its external tensors are mapped from disk when they are used.

    Raises:
        GnOnnxError: As `load_proto`.
    """
    return to_ir(load_proto(path), folder=pathlib.Path(path).parent, name=str(path))


def to_ir(proto: onnx.ModelProto, *, folder: pathlib.Path | None = None, name: str = "model") -> ir.Model:
    """Turn a checked model into ONNX IR, its external tensors relative to `folder`.

    Raises:
        GnOnnxError: ONNX IR does not understand it.
    """
    try:
        with sparse.stand_ins(graph_walk.all_graphs(proto)) as tensors:
            model = ir.serde.deserialize_model(proto)
        sparse.put_in(model, tensors)
    except (ir.serde.SerdeError, ValueError, TypeError, RecursionError) as error:
        raise GnOnnxError(f"{name}: {_first_line(_root_cause(error))}") from error
    if folder is not None:
        # An absolute folder: ONNX IR does not check locations against an empty one.
        ir.external_data.set_base_dir(model.graph, str(folder.absolute()))
    return model


def to_proto(model: ir.Model, *, like: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """Turn ONNX IR into a ModelProto; external tensors keep naming their files.

    Args:
        model: The model.
        like: The model that it was made from: what ONNX IR has no place for is taken over from it (`kept`).

    Raises:
        GnOnnxError: The model cannot be serialised, or something would be lost.
    """
    try:
        proto = ir.serde.serialize_model(model)
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        raise GnOnnxError(f"cannot serialise the model: {_first_line(_root_cause(error))}") from error
    kept.trailing_outputs(proto, model)
    graphs = graph_walk.all_graphs(proto)
    kept.once(proto, graphs)
    kept.without_shapes_of_initializers(graphs, like)
    sparse.restore(graphs, model)
    if like is not None:
        kept.take_over(proto, like)
    return proto


def save(
    model: ir.Model | onnx.ModelProto,
    path: str | os.PathLike[str],
    *,
    data_folder: str | os.PathLike[str] | None = None,
) -> None:
    """Write a model whole or not at all; the same model gives the same bytes.

    Args:
        model: The model; tensors that are external stay so, all others are written inside.
        path: File to write; its extension chooses the format (`FORMATS`).
        data_folder: Folder that the model's external data lies in; where that is not the folder of `path`,
            the data files are copied along.

    Raises:
        GnOnnxError: Nothing was written: read-only folder, full disk, a model above 2 GB, or a data file of
            another content has a place already.
    """
    path = pathlib.Path(path)
    atomic_file.check_target(path)
    proto = to_proto(model) if isinstance(model, ir.Model) else model
    data = serialize(proto, path)
    copied: list[pathlib.Path] = []
    written = False
    try:
        if data_folder is not None:
            external_data.must_not_be_replaced(proto, pathlib.Path(data_folder), path)
            copied = external_data.take_along(proto, pathlib.Path(data_folder), path.resolve().parent)
        with atomic_file.replacing(path) as file:
            file.write(data)
        written = True
    finally:
        if not written:
            external_data.discard(copied)


def serialize(proto: onnx.ModelProto, path: pathlib.Path) -> bytes:
    """The bytes of the file, in the format that its extension names.

    Raises:
        GnOnnxError: Above protobuf's limit of 2 GB, or the format cannot hold the model.
    """
    format_ = FORMATS.get(path.suffix.lower(), "protobuf")
    try:
        if format_ == "protobuf":
            return bytes(proto.SerializeToString(deterministic=True))
        text: bytes = onnx.serialization.registry.get(format_).serialize_proto(proto)
    except (google.protobuf.message.EncodeError, ValueError, RuntimeError) as error:
        advice = "; move its weights to external data first" if format_ == "protobuf" else ""
        raise GnOnnxError(f"{path}: cannot write the model: {_first_line(error)}{advice}") from error
    return text


def _root_cause(error: BaseException) -> BaseException:
    """ONNX IR wraps an error once per level of nesting; the innermost says what is wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
