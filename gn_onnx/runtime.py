"""The operator library in ONNX Runtime: where it is, how a session gets it."""

from __future__ import annotations

import ctypes
import importlib.resources
import json
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gn_onnx.errors import GnOnnxError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    import onnxruntime

_LIBRARY = "libgn_onnx_ops.so"


def library_path() -> Path:
    """Path of the operator library, for `register_custom_ops_library` in any language.

    Raises:
        GnOnnxError: When the package was installed without building it.
    """
    path = Path(str(importlib.resources.files("gn_onnx") / "_lib" / _LIBRARY))
    if not path.is_file():
        raise GnOnnxError(f"{path}: the operator library is not there; install gn_onnx again with a C++ compiler")
    return path


def build_info() -> dict[str, Any]:
    """What the library was built with: version, cpu_isa, cuda, cuda_architectures, domain.

    Raises:
        GnOnnxError: When the library is missing or cannot be loaded.
    """
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise GnOnnxError(f"{path}: {error}") from error
    library.gn_onnx_build_info.restype = ctypes.c_char_p
    info: dict[str, Any] = json.loads(library.gn_onnx_build_info())
    return info


def register(session_options: onnxruntime.SessionOptions) -> None:
    """Adds our operators, and our kernel for ai.onnx GroupNormalization, to the sessions made with these options.

    Called again with the same options it does nothing: ONNX Runtime would take the library a second time and then
    refuse to make a session.

    Raises:
        GnOnnxError: When the library is missing or this ONNX Runtime refuses it.
    """
    known = _registered.get(id(session_options))
    if known is not None and known() is session_options:
        return
    path = library_path()
    try:
        session_options.register_custom_ops_library(str(path))
    except Exception as error:  # ONNX Runtime raises its own types, which differ from version to version
        raise GnOnnxError(f"{path}: ONNX Runtime does not take the library: {error}") from error
    _registered[id(session_options)] = weakref.ref(session_options)


_registered: dict[int, weakref.ref[Any]] = {}
"""Options that have the library, by identity; an entry whose object is gone may be overwritten by a new one's."""


def session(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model,
    providers: Sequence[str] | None = None,
    session_options: onnxruntime.SessionOptions | None = None,
) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session with the library registered.

    Args:
        model: Path, serialised model or model.
        providers: As ONNX Runtime takes them; by default all that are available.
        session_options: Taken as they are, with the library added.

    Raises:
        GnOnnxError: When onnxruntime is not installed, the library is missing, or the model does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise GnOnnxError("onnxruntime is not installed: pip install gn_onnx[cpu] or gn_onnx[gpu]") from error
    options = onnxruntime.SessionOptions() if session_options is None else session_options
    register(options)
    source = _source(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=providers or onnxruntime.get_available_providers())
    except Exception as error:  # as above
        name = source if isinstance(source, str) else "model"
        raise GnOnnxError(f"{name}: ONNX Runtime does not load it: {error}") from error


def _source(model: str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model) -> str | bytes:
    if isinstance(model, bytes):
        return model
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    import onnx_ir as ir

    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    data: bytes = proto.SerializeToString()
    return data
