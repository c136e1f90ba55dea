"""`gn-onnx info`: versions, the operator library, what it was built for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gn_onnx.console import Console

if TYPE_CHECKING:
    from gn_onnx.commands import Subparsers

_PACKAGES = ("numpy", "onnx", "onnx_ir", "onnxruntime", "onnxruntime-gpu", "torch", "onnxscript")


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "info",
        help="versions, providers, and where the operator library is",
        description="Versions, ONNX Runtime's providers, the operator library and what it was built for.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    facts = _facts()
    if arguments.json:
        console.data(facts)
        return 0
    for key, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        console.say(f"  {key:20} {shown if shown not in (None, '') else 'none'}")
    if facts.get("cuda") is False:
        console.say(
            "  note: the library was built without CUDA kernels, and in a session with the CUDA provider GroupNorms run"
        )
        console.say("  on the CPU; pip install again with GN_ONNX_CUDA=ON, which brings nvcc along (105 MB)")
    return 0


def _facts() -> dict[str, Any]:
    import importlib.metadata
    import platform

    from gn_onnx import __version__
    from gn_onnx.checking import ort_runner
    from gn_onnx.errors import GnOnnxError

    facts: dict[str, Any] = {
        "gn_onnx": __version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = None
    facts["providers"] = ort_runner.available_providers() if ort_runner.is_installed() else []
    library = ort_runner.find_library()
    facts["library"] = str(library) if library else None
    if library is not None:
        import gn_onnx

        try:
            build = gn_onnx.build_info()
        except GnOnnxError as error:
            facts["library error"] = str(error)
        else:
            facts |= dict(build) if isinstance(build, dict) else {"build": str(build)}
    return facts
