"""Two stages of the GPU script without a GPU: our error beside PyTorch's, and compute-sanitizer's verdicts."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any

import numpy as np
import pytest

from gn_onnx.benchmarks import bench_cuda, cuda_checks, cuda_parity, cuda_raw, cuda_sanitizer
from gn_onnx.benchmarks.cuda_parity import Row


@pytest.mark.torch
def test_our_error_is_not_larger_than_pytorchs(library: pathlib.Path) -> None:
    pytest.importorskip("torch")
    rows = cuda_parity.run(cuda_raw.RawKernels(library), cuda_raw.HostMemory(), "cpu")
    assert {(row.kind, row.dtype) for row in rows} == {(k, d) for k in cuda_checks.KINDS for d in cuda_raw.DTYPES}
    assert [row for row in rows if row.worse] == []
    large_mean = next(row for row in rows if row.kind == "large mean" and row.dtype == "float32")
    assert large_mean.torch > 100 * large_mean.ours  # PyTorch adds a product of the mean; ours subtracts it first
    assert all(kind in cuda_parity.table(rows) for kind in cuda_checks.KINDS)


@pytest.mark.torch
def test_a_larger_error_is_found(library: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    kernels = cuda_raw.RawKernels(library)
    honest = kernels.group_norm

    def less_exact(problem: Any, limits: Any, pointers: Any, stream: int) -> None:
        other = cuda_raw.Problem.from_buffer_copy(problem)
        other.epsilon *= 1.5
        honest(other, limits, pointers, stream)

    monkeypatch.setattr(kernels, "group_norm", less_exact)
    monkeypatch.setattr(cuda_parity, "PARITY_CHECKS", cuda_parity.PARITY_CHECKS[:1])
    rows = cuda_parity.run(kernels, cuda_raw.HostMemory(), "cpu")
    assert {row.dtype for row in rows if row.worse and row.kind == "low variance"} == set(cuda_raw.DTYPES)
    assert "WORSE" in cuda_parity.table(rows)


def test_roundings_leave_the_results_own_rounding_out() -> None:
    exact = np.random.default_rng(0).standard_normal(10000) * 8
    for dtype in cuda_raw.DTYPES.values():
        assert cuda_parity.roundings(exact.astype(dtype), exact) == 0
    off = (exact + 100 * 2.0**-24 * (1 + np.abs(exact))).astype(np.float32)
    assert 95 < cuda_parity.roundings(off, exact) < 103
    assert Row("ordinary", "float32", float("nan"), 5).worse
    assert not Row("ordinary", "float32", 5, 1).worse  # neither is worth a word
    assert Row("ordinary", "float32", 9, 8).worse


def test_a_larger_error_fails_the_script(
    library: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(cuda_checks, "CHECKS", cuda_checks.CHECKS[:1])
    report = tmp_path / "report.json"
    arguments = ["--dry-run", f"--library={library}", f"--json={report}"]
    for ours, status in ((5.0, 0), (50.0, 1)):
        rows = [Row("ordinary", "float32", ours, 10)]
        monkeypatch.setattr(cuda_parity, "run", lambda *_, rows=rows: rows)
        assert bench_cuda.main(arguments) == status
        assert json.loads(report.read_text())["parity"][0]["ours"] == ours


_TOOL = """#!/bin/sh
case "$1" in
  --tool=memcheck) echo "========= ERROR SUMMARY: 0 errors"; exit 0 ;;
  --tool=racecheck) echo "========= ERROR SUMMARY: 3 errors"; exit 9 ;;
  --tool=synccheck) sleep 60 & echo $! > "$0.child"; wait ;;
esac
"""


def _install(text: str, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "compute-sanitizer"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_verdicts_of_the_sanitizer(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(_TOOL, tmp_path, monkeypatch)
    monkeypatch.setattr(cuda_sanitizer, "_SECONDS", 2.0)
    monkeypatch.setattr(cuda_sanitizer, "_LEAST_SECONDS", 1.0)
    verdicts = cuda_sanitizer.run(pathlib.Path("library.so"), time.monotonic() + 60)
    assert verdicts == {
        "memcheck": "passed",
        "racecheck": "failed: ========= ERROR SUMMARY: 3 errors",
        "synccheck": "not done in its time",
    }
    child = pathlib.Path("/proc", (tmp_path / "compute-sanitizer.child").read_text().strip(), "stat")
    assert not child.exists() or child.read_text().rsplit(")", 1)[1].split()[0] == "Z"  # nothing runs on


def test_a_sanitizer_that_cannot_run_says_why(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set(cuda_sanitizer.run(tmp_path, time.monotonic() + 60).values()) == {
        "not run: compute-sanitizer is not installed"
    }
    _install("#!/bin/sh\necho '========= Error: Device not supported.'\nexit 1\n", tmp_path, monkeypatch)
    assert set(cuda_sanitizer.run(tmp_path, time.monotonic() + 60).values()) == {
        "not run: the tool does not support this device"
    }
    assert set(cuda_sanitizer.run(tmp_path, time.monotonic()).values()) == {"not run: no time left"}
