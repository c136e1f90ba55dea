"""Writes a model into a model repository of NVIDIA Triton Inference Server, whole or not at all.

    REPOSITORY/NAME/config.pbtxt
    REPOSITORY/NAME/libgn_onnx_ops.so
    REPOSITORY/NAME/1/model.onnx            and its external data

Imports: numpy, onnx, onnx_ir.
"""

from __future__ import annotations

import os
import pathlib
import re
import secrets
import shutil

import gn_onnx
from gn_onnx.errors import GnOnnxError
from gn_onnx.files import model_io
from gn_onnx.serving import triton_config

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


def default_name(model: pathlib.Path) -> str:
    """The file's name without extensions and what no model may be called: `fcos.gn.onnx` is `fcos`."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", model.stem.removesuffix(".gn")).lstrip(".-") or "model"


def write(model: pathlib.Path, repository: pathlib.Path, settings: triton_config.Settings) -> triton_config.Config:
    """Write `model` as `settings.name`; the repository is created where it is missing.

    Raises:
        GnOnnxError: Nothing was written: the model cannot be read or served, the name is taken or no name, the library is
            not there, or the disk is full or read-only.
    """
    if not _NAME.fullmatch(settings.name):
        raise GnOnnxError(f"{settings.name!r} is no name for a model: letters, digits, _ . - only, and no . or - first")
    library = gn_onnx.library_path()
    proto = model_io.load_proto(model)
    try:
        config = triton_config.make(proto, settings)
    except GnOnnxError as error:
        raise GnOnnxError(f"{model}: {error}") from error
    target = repository / settings.name
    if os.path.lexists(target):
        raise GnOnnxError(f"{target}: is there already; remove it, or give another --name")
    created = _missing_folders(repository)
    # In the repository itself, so that it can be renamed; the name begins with a dot and a loading server refuses it.
    temporary = repository / f".{settings.name}.{secrets.token_hex(4)}.tmp"
    done = False
    try:
        (temporary / "1").mkdir(parents=True)
        model_io.save(proto, temporary / "1" / "model.onnx", data_folder=model.parent)
        _copy_durably(library, temporary / library.name)
        (temporary / "config.pbtxt").write_text(config.text, encoding="utf-8")
        os.rename(temporary, target)
        done = True
    except OSError as error:
        raise GnOnnxError(f"{target}: cannot write: {error.strerror or error}; nothing was changed") from error
    finally:
        if not done:
            shutil.rmtree(temporary, ignore_errors=True)
            for folder in created:
                _remove_if_empty(folder)
    return config


def _missing_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """`folder` and its parents as far as they do not exist, innermost first."""
    missing = []
    while not folder.exists() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    return missing


def _copy_durably(source: pathlib.Path, target: pathlib.Path) -> None:
    with open(source, "rb") as reader, open(target, "wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 22)
        writer.flush()
        os.fsync(writer.fileno())
    shutil.copymode(source, target)


def _remove_if_empty(folder: pathlib.Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
