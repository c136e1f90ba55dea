"""Compile the CUDA kernels' sources for the host: a library with the same C functions, and the tests.

Needs a C++ compiler and nothing of CUDA. Imports: standard library only.

    python custom_ops/bench/build_emulated.py FOLDER    writes FOLDER/libgn_emulated.so
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]

_KERNELS = ("group_norm_float32.cu", "group_norm_float16.cu", "group_norm_bfloat16.cu", "group_norm.cu", "plan.cu")
_EMULATION = ("emu/emulator.cc", "emu/fiber.cc", "emu/device_limits.cc")
_WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")  # the unrolling is for the CUDA compiler


def compile_objects(
    folder: pathlib.Path, *, flags: tuple[str, ...] = (), extra: tuple[str, ...] = (), root: pathlib.Path = ROOT
) -> list[pathlib.Path]:
    """The kernels, the emulation and the `extra` sources, relative to `root`, as object files in `folder`.

    Raises:
        subprocess.CalledProcessError: A source does not compile.
    """
    cuda = root / "src" / "cuda"
    sources = [*(cuda / name for name in (*_KERNELS, *_EMULATION)), *(root / name for name in extra)]
    folder.mkdir(parents=True, exist_ok=True)
    common = ["-std=c++20", "-fPIC", "-DGN_EMULATE", *_WARNINGS, *flags, f"-I{root / 'include'}", f"-I{cuda}"]

    def compile_one(source: pathlib.Path) -> pathlib.Path:
        target = folder / f"{source.name}.o"
        subprocess.run([compiler(), *common, "-x", "c++", "-c", str(source), "-o", str(target)], check=True)
        return target

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(compile_one, sources))


def compiler() -> str:
    """The C++ compiler: CXX, else c++ or g++.

    Raises:
        FileNotFoundError: There is none.
    """
    for name in (os.environ.get("CXX"), "c++", "g++"):
        if name and shutil.which(name):
            return name
    raise FileNotFoundError("no C++ compiler: install g++, or set CXX")


def link(objects: list[pathlib.Path], target: pathlib.Path, *flags: str) -> pathlib.Path:
    subprocess.run([compiler(), *flags, *map(str, objects), "-o", str(target)], check=True)
    return target


def library(folder: pathlib.Path) -> pathlib.Path:
    """Build `folder`/libgn_emulated.so."""
    objects = compile_objects(folder, flags=("-O2",), extra=("src/cuda/c_api.cu",))
    return link(objects, folder / "libgn_emulated.so", "-shared")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(library(pathlib.Path(sys.argv[1])))
