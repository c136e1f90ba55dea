"""Tensors whose bytes lie in files beside the model: where, whether they may be read, and taking them along.

Nothing here reads the bytes into memory; a check is a `stat`, a copy is streamed. A hard link would be
quicker than a copy, but ONNX and ONNX IR refuse data files with more than one link.
"""

from __future__ import annotations

import dataclasses
import filecmp
import math
import os
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from gn_onnx.errors import GnOnnxError
from gn_onnx.files import atomic_file


@dataclasses.dataclass(frozen=True)
class Reference:
    """One tensor's place: `length` bytes (None: to the end) from `offset` in the file `location`."""

    tensor: str
    location: str
    offset: int
    length: int | None


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model: initializers and attributes, in subgraphs and functions too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)
        sparse_tensors = list(attribute.sparse_tensors)
        if attribute.HasField("sparse_tensor"):
            sparse_tensors.append(attribute.sparse_tensor)
        for sparse in sparse_tensors:
            yield from (sparse.values, sparse.indices)


def is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def reference(tensor: onnx.TensorProto) -> Reference:
    """Where an external tensor lies.

    Raises:
        GnOnnxError: No location, or an offset or length that is not a natural number.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if not entries.get("location"):
        raise GnOnnxError(f"tensor {tensor.name!r} has external data but no location")
    numbers = {}
    for key in ("offset", "length"):
        text = entries.get(key, "")
        if text and not (text.isascii() and text.isdigit() and len(text) < 20):
            raise GnOnnxError(f"tensor {tensor.name!r}: external data {key} is {text[:40]!r}, not a number of bytes")
        numbers[key] = int(text) if text else None
    return Reference(tensor.name, entries["location"], numbers["offset"] or 0, numbers["length"])


def references(proto: onnx.ModelProto) -> list[Reference]:
    return [reference(tensor) for tensor in tensors(proto) if is_external(tensor)]


def size_in_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of all external tensors, by their shapes where no length is given."""
    total = 0
    for tensor in filter(is_external, tensors(proto)):
        length = reference(tensor).length
        if length is None:
            # The types that numpy lacks have at most a byte per element; 4 is the usual size.
            known: dict[int, int] = {onnx.TensorProto.DOUBLE: 8, onnx.TensorProto.INT64: 8, onnx.TensorProto.FLOAT16: 2}
            length = math.prod(tensor.dims) * known.get(tensor.data_type, 4)
        total += length
    return total


def data_file(place: Reference, folder: pathlib.Path) -> pathlib.Path:
    """The file that holds the tensor, known to lie inside `folder` and to be long enough.

    Raises:
        GnOnnxError: The location leaves the model's folder, directly or by a link, the file is missing, or it
            is too short for offset and length.
    """
    where = f"tensor {place.tensor!r}: external data {place.location!r}"
    if "\0" in place.location or os.path.isabs(place.location):
        raise GnOnnxError(f"{where} is not a relative path inside the model's folder")
    path = pathlib.Path(os.path.normpath(folder.absolute() / place.location))
    if not path.is_relative_to(os.path.normpath(folder.absolute())):
        raise GnOnnxError(f"{where} lies outside the model's folder {folder}")
    try:
        real = path.resolve()
        if not real.is_relative_to(folder.resolve()):
            raise GnOnnxError(f"{where} is a link to {real}, outside the model's folder {folder}")
        if not real.is_file():
            raise GnOnnxError(f"{where} is missing: no file {path}")
        size = real.stat().st_size
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise GnOnnxError(f"{where} cannot be read: {error}") from error
    end = place.offset + (place.length or 0)
    if end > size:
        raise GnOnnxError(f"{where} ends at byte {size}, the tensor needs bytes {place.offset} to {end}")
    return path


def must_not_be_replaced(proto: onnx.ModelProto, folder: pathlib.Path, output: pathlib.Path) -> None:
    """Make sure that writing `output` does not destroy data that the model in `folder`, or its copy, needs.

    Raises:
        GnOnnxError: `output` is one of the model's data files, or would take the place of one beside the copy.
    """
    target = output.resolve()
    for location in dict.fromkeys(place.location for place in references(proto)):
        beside = pathlib.Path(os.path.normpath(target.parent / location))
        if (folder / location).resolve() == target or beside.resolve() == target:
            raise GnOnnxError(f"{output}: is the name of a file with the model's external data ({location!r})")


def read(tensor: onnx.TensorProto, folder: pathlib.Path) -> np.ndarray:
    """One external tensor's values; only its own bytes are read.

    Raises:
        GnOnnxError: As `data_file`, or the bytes do not fit the tensor's shape.
    """
    place = reference(tensor)
    copy = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    try:
        with open(data_file(place, folder), "rb") as file:
            file.seek(place.offset)
            copy.raw_data = file.read(-1 if place.length is None else place.length)
        return numpy_helper.to_array(copy)
    except (OSError, ValueError, TypeError) as error:
        raise GnOnnxError(f"tensor {tensor.name!r}: cannot read its external data: {error}") from error


def take_along(proto: onnx.ModelProto, source: pathlib.Path, target: pathlib.Path) -> list[pathlib.Path]:
    """Copy the data files that the model names from folder `source` to the same places under `target`.

    Files with equal bytes that are there already are left alone.

    Returns:
        The files that were created, for `discard` should a later step fail.

    Raises:
        GnOnnxError: Another file has the name already, or the copy fails; nothing is left behind then.
    """
    if target.resolve() == source.resolve():
        return []
    created: list[pathlib.Path] = []
    done = False
    try:
        for location in dict.fromkeys(place.location for place in references(proto)):
            origin, copy = source / location, target / location
            if copy.exists():
                if not filecmp.cmp(origin, copy, shallow=False):
                    raise GnOnnxError(f"{copy}: is there already and differs from {origin}; move it away first")
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            with open(origin, "rb") as reader, atomic_file.replacing(copy) as writer:
                shutil.copyfileobj(reader, writer, 1 << 22)
            created.append(copy)
        done = True
    except OSError as error:
        raise GnOnnxError(f"{target}: cannot copy external data: {error.strerror or error}") from error
    finally:
        if not done:
            discard(created)
    return created


def discard(files: list[pathlib.Path]) -> None:
    """Remove files that `take_along` created."""
    for file in files:
        file.unlink(missing_ok=True)
