"""The CUDA kernels without a GPU: their sources run by the emulation, and the launch plan.

The C++ tests compare with float64 (custom_ops/tests/cuda_emulated_test.cc says on what). Here they are built with the
sanitizers and run, and kernels that are broken on purpose must make them fail.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import subprocess
from types import ModuleType

import pytest

CUSTOM_OPS = pathlib.Path(__file__).parents[1] / "custom_ops"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
EMULATED_TEST = "tests/cuda_emulated_test.cc"
ORT_TEST = "tests/ort_cuda_test.cc"
ORT_LAYER = ("src/ort/group_norm_op.cc", "src/ort/group_norm_kernel.cc")


def _load_builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_emulated", CUSTOM_OPS / "bench" / "build_emulated.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build_emulated = _load_builder()

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++")))), reason="no C++ compiler"
)


def _run(program: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """The kernels and the tests of this page, compiled with the sanitizers."""
    flags = ("-O1", "-g1", *SANITIZERS, "-DGN_WITH_CUDA=1", f"-I{CUSTOM_OPS / 'src'}")
    extra = (EMULATED_TEST, ORT_TEST, *ORT_LAYER)
    compiled: list[pathlib.Path] = build_emulated.compile_objects(
        tmp_path_factory.mktemp("sanitized"), flags=flags, extra=extra
    )
    return compiled


def _without(objects: list[pathlib.Path], *sources: str) -> list[pathlib.Path]:
    names = {f"{pathlib.Path(source).name}.o" for source in sources}
    return [path for path in objects if path.name not in names]


def test_kernels_agree_with_float64(objects: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    """Every kernel, type, tail and alignment; in place; bits that depend on neither batch nor order of threads."""
    own = _without(objects, ORT_TEST, *ORT_LAYER)
    result = _run(build_emulated.link(own, tmp_path / "emulated_test", *SANITIZERS), "--quick")
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


def test_operators_of_the_cuda_provider(objects: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    """What they ask ONNX Runtime for: scratch memory by stream, threads, special shapes, errors."""
    own = _without(objects, EMULATED_TEST)
    result = _run(build_emulated.link(own, tmp_path / "ort_test", *SANITIZERS))
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


@pytest.mark.slow
def test_kernels_agree_with_float64_on_every_kind_of_input(tmp_path: pathlib.Path) -> None:
    objects = build_emulated.compile_objects(tmp_path, flags=("-O2",), extra=(EMULATED_TEST,))
    result = _run(build_emulated.link(objects, tmp_path / "emulated_test"))
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


@pytest.mark.parametrize("name", ["plan", "index"])
def test_without_running_kernels(name: str, tmp_path: pathlib.Path) -> None:
    """The launch plan for every shape and device; index arithmetic beyond 2^31 elements."""
    program = tmp_path / f"{name}_test"
    cuda = CUSTOM_OPS / "src" / "cuda"
    sources = [CUSTOM_OPS / "tests" / f"cuda_{name}_test.cc", cuda / "plan.cu", *sorted((cuda / "emu").glob("*.cc"))]
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-DGN_EMULATE", *SANITIZERS]
    includes = [f"-I{CUSTOM_OPS / 'include'}", f"-I{cuda}", "-x", "c++"]
    subprocess.run([build_emulated.compiler(), *flags, *includes, *map(str, sources), "-o", str(program)], check=True)
    result = _run(program)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


BROKEN = {
    "a part's own variance is left out when parts are combined": (
        "moments.cuh",
        "squares += part.squares + part.count * d * d;",
        "squares += part.count * d * d;",
    ),
    "the mean's second part is dropped": (
        "moments.cuh",
        "large ? moments.offset : moments.pivot + moments.offset",
        "large ? 0.0F : moments.pivot",
    ),
    "a barrier is missing in the block's sum": (
        "reduce.cuh",
        "partial[warp()] = value;\n    block_barrier();",
        "partial[warp()] = value;",
    ),
    "a block writes to its peers before they run": ("cluster_exchange.cuh", "if (!joined) cluster_wait();", ""),
    "the first pass reads copies that have not arrived": ("tile.cuh", "async_wait<kBatches - 1 - kBatch>();", ""),
    "the second launch does not wait for the first": ("contiguous_split.cuh", "wait_for_previous_launch();", ""),
    "the second launch waits too late, channels last": (
        "columns_split.cuh",
        "wait_for_previous_launch();\n        for",
        "if (row != unit.row) wait_for_previous_launch();\n        for",
    ),
    "the last vector of a row takes the wrong channel": ("contiguous.cuh", ">= left;", "> left;"),
    "a group's rows are counted once too often": (
        "columns.cuh",
        "(rows - row - 1) / p.rows_at_once",
        "(rows - row) / p.rows_at_once",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", BROKEN)
def test_broken_kernels_fail(mistake: str, tmp_path: pathlib.Path) -> None:
    name, right, wrong = BROKEN[mistake]
    root = tmp_path / "custom_ops"
    for folder in ("src/cuda", "include", "tests"):
        shutil.copytree(CUSTOM_OPS / folder, root / folder)
    source = root / "src" / "cuda" / name
    text = source.read_text()
    assert text.count(right) >= 1, f"{name} no longer has the line that this test breaks"
    source.write_text(text.replace(right, wrong))
    flags = ("-O1", "-Wno-error")
    objects = build_emulated.compile_objects(tmp_path / "build", flags=flags, extra=(EMULATED_TEST,), root=root)
    result = _run(build_emulated.link(objects, tmp_path / "broken_test"), "--quick")
    assert result.returncode != 0, "the tests did not notice"
