"""The GPU script without a GPU: its checks run on the emulated kernels, its timing on a stand-in for torch.cuda.

What the stand-in cannot show is how fast anything is; it shows that every step runs, binds the right pointers and ends
in the table and the JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gn_onnx.benchmarks import (
    bench_cuda,
    cuda_checks,
    cuda_models,
    cuda_parity,
    cuda_raw,
    cuda_rivals,
    cuda_sessions,
    cuda_table,
    cuda_timing,
)
from gn_onnx.benchmarks.cases import Case
from gn_onnx.benchmarks.cuda_timing import Timed
from gn_onnx.checking import float64
from gn_onnx.errors import GnOnnxError

CASE = Case("small", 2, 32, (8, 9), 8, "silu")


def test_dry_run_checks_every_regime(library: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_parity, "PARITY_CHECKS", cuda_parity.PARITY_CHECKS[:1])  # all of them elsewhere
    report = tmp_path / "report.json"
    assert bench_cuda.main(["--dry-run", f"--library={library}", f"--json={report}"]) == 0
    checks = json.loads(report.read_text())["checks"]
    assert checks["failures"] == []
    assert checks["skipped"] == 0
    for layout, regimes in (("first", ("warp", "registers", "shared", "split")), ("last", ("registers", "shared", "split"))):
        for regime in regimes:
            for dtype in cuda_raw.DTYPES:
                assert any(
                    name.startswith(f"{regime}, {layout}") and name.endswith(f" {dtype}") for name in checks["regimes"]
                )


def test_a_wrong_kernel_is_found(library: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = cuda_raw.RawKernels(library)
    honest = kernels.group_norm

    def wrong(problem: Any, limits: Any, pointers: Any, stream: int) -> None:
        shorter = cuda_raw.Problem.from_buffer_copy(problem)
        shorter.epsilon *= 1.5
        honest(shorter, limits, pointers, stream)

    monkeypatch.setattr(kernels, "group_norm", wrong)
    outcome = cuda_checks.run(kernels, cuda_raw.HostMemory(), checks=cuda_checks.CHECKS[:1])
    assert len(outcome.failures) >= outcome.checks / 5  # the inputs of low variance show epsilon
    assert "times the tolerance" in outcome.failures[0]


def test_unwritten_output_is_found(library: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = cuda_raw.RawKernels(library)
    monkeypatch.setattr(kernels, "group_norm", lambda *_: None)
    outcome = cuda_checks.run(kernels, cuda_raw.HostMemory(), checks=cuda_checks.CHECKS[:1])
    assert len(outcome.failures) == outcome.checks


def test_a_write_outside_the_output_is_found() -> None:
    memory = cuda_raw.HostMemory()
    region = memory.allocate(64, 0)
    region.owner[region.start + 64] = 0
    with pytest.raises(GnOnnxError, match="outside"):
        memory.read(region)


def test_no_time_left_is_counted(library: pathlib.Path) -> None:
    outcome = cuda_checks.run(cuda_raw.RawKernels(library), cuda_raw.HostMemory(), deadline=0)
    assert outcome.checks == 0
    assert outcome.skipped == len(cuda_checks.CHECKS) * 15


def test_library_without_cuda_says_so(tmp_path: pathlib.Path) -> None:
    with pytest.raises(GnOnnxError, match="cannot be loaded"):
        cuda_raw.RawKernels(tmp_path / "missing.so")


@pytest.mark.ort
@pytest.mark.parametrize("kind", [cuda_models.CHAIN, cuda_models.NATIVE])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("activation", cuda_raw.ACTIVATIONS[:3])
def test_models_of_rivals_compute_group_norm(kind: str, dtype: str, activation: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    case = dataclasses.replace(CASE, activation=activation)
    rng = np.random.default_rng(0)
    scale, bias = rng.uniform(0.5, 2, 32), rng.standard_normal(32)
    model = cuda_models.make(kind, case, dtype, 2, scale, bias)
    assert model is not None
    feeds = {f"x{i}": rng.standard_normal(case.shape).astype(dtype) for i in range(2)}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for i, y in enumerate(session.run(["y0", "y1"], feeds)):
        expected = float64.group_norm(feeds[f"x{i}"], scale, bias, num_groups=8, epsilon=1e-5, activation=activation)
        np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5 if dtype == "float32" else 4e-2)


def test_contrib_expresses_images_without_relu_only() -> None:
    ones = np.ones(32)
    assert cuda_models.make(cuda_models.CONTRIB, CASE, "float16", 1, ones, ones) is not None
    relu = dataclasses.replace(CASE, activation="relu")
    assert cuda_models.make(cuda_models.CONTRIB, relu, "float16", 1, ones, ones) is None
    assert cuda_models.make(cuda_models.CONTRIB, CASE, "bfloat16", 1, ones, ones) is None


class _Event:
    def __init__(self, **_: object) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: _Event) -> float:
        return (end.at - self.at) * 1e3


class _Stream:
    cuda_stream = 0

    def wait_stream(self, _: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _Graph:
    def replay(self) -> None:
        time.sleep(1e-4)


@pytest.fixture
def host_as_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda, as far as the script uses it, by the host."""
    torch = pytest.importorskip("torch")

    @contextlib.contextmanager
    def anything(*_: object, **__: object) -> Iterator[None]:
        yield

    stand_ins = {
        "Event": _Event, "Stream": _Stream, "CUDAGraph": _Graph, "graph": anything, "stream": anything,
        "current_stream": _Stream, "synchronize": lambda: None, "empty_cache": lambda: None,
    }  # fmt: skip
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(cuda_timing, "DEVICE", "cpu")
    monkeypatch.setattr(cuda_sessions, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.mark.torch
@pytest.mark.ort
@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_timing_from_end_to_end(library: pathlib.Path, host_as_device: None, dtype: str, channels_last: bool) -> None:
    kernels = cuda_raw.RawKernels(library)
    limits = kernels.limits()
    limits.l2_bytes = 1 << 16
    timed = Timed(CASE, dtype, channels_last)
    result = cuda_rivals.run_case(kernels, limits, timed, "plan", with_compile=True, library=None, runtime=not channels_last)
    assert {cuda_rivals.OURS, cuda_rivals.EAGER, cuda_rivals.COMPILED, cuda_rivals.COPY} <= result.cold.keys(), (
        result.refused
    )
    assert result.is_cold
    if not channels_last and dtype != "bfloat16":
        assert {cuda_models.CHAIN, cuda_models.NATIVE} <= result.cold.keys(), result.refused
        assert result.refused[cuda_models.OURS] == "the operator library is not built"
    assert cuda_models.CONTRIB in result.refused or channels_last
    assert json.dumps(result.to_json())
    table = cuda_table.table([result], 2.0)
    assert "small" in table
    assert "%" in table


@pytest.mark.torch
def test_a_wrong_result_has_no_time(library: pathlib.Path, host_as_device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = cuda_raw.RawKernels(library)
    monkeypatch.setattr(kernels, "group_norm", lambda *_: None)  # leaves the poison
    limits = kernels.limits()
    limits.l2_bytes = 1 << 16
    result = cuda_rivals.run_case(
        kernels, limits, Timed(CASE, "float16"), "plan", with_compile=False, library=None, runtime=False
    )
    assert "off by" in result.refused[cuda_rivals.OURS]
    assert cuda_rivals.OURS not in result.cold
    assert result.ratio(cuda_rivals.EAGER) is None
