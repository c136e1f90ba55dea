"""torchvision beside a CPU build of torch: its wheel on PyPI is a CUDA build, and its compiled operators do not load.

Importing it then fails at the first operator whose shape function it registers. None of the models here runs one, so
that schemas alone are enough. Where torchvision's own operators load, nothing is done.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import pathlib

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""Those whose shape functions are registered even where the operators are missing."""

_library: torch.library.Library | None = None
"""Kept alive: its definitions end with it."""


def register() -> None:
    """Makes `import torchvision` work; call it before importing a library that does."""
    global _library
    found = importlib.util.find_spec("torchvision")
    if _library is not None or found is None or found.origin is None or _operators_load(pathlib.Path(found.origin).parent):
        return
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)


def _operators_load(folder: pathlib.Path) -> bool:
    for path in folder.glob("_C*"):
        if path.name.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
            try:
                torch.ops.load_library(str(path))
            except OSError:
                continue
            return True
    return False
