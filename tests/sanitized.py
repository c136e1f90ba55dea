"""The C++ tests built with a sanitizer, once per run of the tests: the layer's and the kernels' share the build."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
import sys
import tempfile

CUSTOM_OPS = pathlib.Path(__file__).parent.parent / "custom_ops"
PATH = os.pathsep.join((str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")))
PROGRAMS = ("ort_layer_test", "ort_layer_fuzz", "cpu_group_norm_test")

BASELINE = ("-DGN_ONNX_BASELINE_ONLY=ON", "-DCMAKE_CXX_FLAGS=-O1")
"""Kernels for any processor, which are quickly built: those for newer ones are made of the same lines."""


def build(
    folder: pathlib.Path,
    sanitizer: str,
    *options: str,
    source: pathlib.Path = CUSTOM_OPS,
    programs: tuple[str, ...] = PROGRAMS,
) -> pathlib.Path:
    """The folder with the programs."""
    configure = ["cmake", "-S", str(source), "-B", str(folder), "-DGN_ONNX_CUDA=OFF", "-DGN_ONNX_TESTS=ON"]
    configure += ["-DCMAKE_BUILD_TYPE=Debug", f"-DGN_ONNX_SANITIZE={sanitizer}", *options]
    compile_ = ["cmake", "--build", str(folder), "--parallel", "2", "--target", *programs]
    for command in (configure, compile_):
        done = subprocess.run(command, env=os.environ | {"PATH": PATH}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "tests"


_folders: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def baseline(sanitizer: str) -> pathlib.Path:
    """The folder with all programs, in a build that goes away with this process."""
    _folders.append(tempfile.TemporaryDirectory(prefix="gn_onnx_"))
    return build(pathlib.Path(_folders[-1].name), sanitizer, *BASELINE)
