"""Every GroupNorm in an ONNX model as one node, and a kernel for that node in ONNX Runtime.

The public names, each loaded when it is first used, so that `import gn_onnx` costs next to nothing:

    fuse(model, *, target="plugin", activations=True, freeze_defaults=False) -> FusionResult
    find_group_norms(model) -> list[GroupNorm | Rejection]
    FuseGroupNorm                       an onnx_ir pass, composes with onnx_ir.passes.Sequential
    export(module, args, path, ...)     a PyTorch module, exported and fused
    translation_table(), symbolics()    for torch.onnx.export: each group_norm as a node of ours
    unfuse(model)                       fused nodes back to portable operators
    check_parity(original, fused) -> ParityReport
    library_path(), register(session_options), session(model, providers=...), build_info()
    GroupNorm, Rejection, FusionResult, ParityReport, GnOnnxError, ParityError
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gn_onnx.checking.parity import ParityReport, check_parity
    from gn_onnx.errors import GnOnnxError, ParityError
    from gn_onnx.exporting.dynamo import translation_table
    from gn_onnx.exporting.export import export
    from gn_onnx.exporting.torchscript import symbolics
    from gn_onnx.fuse import FuseGroupNorm, FusionResult, find_group_norms, fuse
    from gn_onnx.group_norm import GroupNorm, Rejection
    from gn_onnx.runtime import build_info, library_path, register, session
    from gn_onnx.unfuse import unfuse

__version__ = "0.1.0"

__all__ = [
    "FuseGroupNorm",
    "FusionResult",
    "GnOnnxError",
    "GroupNorm",
    "ParityError",
    "ParityReport",
    "Rejection",
    "build_info",
    "check_parity",
    "export",
    "find_group_norms",
    "fuse",
    "library_path",
    "register",
    "session",
    "symbolics",
    "translation_table",
    "unfuse",
]

_HOME = {
    "FuseGroupNorm": "fuse",
    "FusionResult": "fuse",
    "GnOnnxError": "errors",
    "GroupNorm": "group_norm",
    "ParityError": "errors",
    "ParityReport": "checking.parity",
    "Rejection": "group_norm",
    "build_info": "runtime",
    "check_parity": "checking.parity",
    "export": "exporting.export",
    "find_group_norms": "fuse",
    "fuse": "fuse",
    "library_path": "runtime",
    "register": "runtime",
    "session": "runtime",
    "symbolics": "exporting.torchscript",
    "translation_table": "exporting.dynamo",
    "unfuse": "unfuse",
}
"""Public name -> module that defines it."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """Importing the module `gn_onnx.fuse` binds it as an attribute here; the public name is the function in it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if _HOME.get(name) == name and isinstance(value, types.ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
