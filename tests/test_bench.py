"""Benchmarks: what they print and refuse to print; the numbers themselves are nobody's promise here."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from hand_models import detector

from gn_onnx import cli
from gn_onnx.benchmarks import bench, bench_kernels, bench_models, bench_plot, bench_table
from gn_onnx.benchmarks.cases import CASES, Case
from gn_onnx.checking import ort_runner

SMALL = Case("small", 1, 8, (6, 6), 2, "silu")


def test_cases_are_labelled_once_and_divisible() -> None:
    assert len({case.label for case in CASES}) == len(CASES)
    assert all(case.channels % case.num_groups == 0 for case in CASES)


def test_runs_are_interleaved() -> None:
    calls: list[str] = []
    timings = bench.interleave({name: lambda name=name: calls.append(name) for name in "ab"}, runs=10)
    assert calls[-20:] == ["a", "b"] * 10
    assert len(timings["a"].microseconds) == 10
    assert timings["a"].percentile(10) <= timings["a"].median <= timings["a"].percentile(90)


def test_rounds_are_compared_one_by_one() -> None:
    slow = bench.Timing("slow", (3.0, 9.0, 4.0))
    fast = bench.Timing("fast", (2.0, 8.0, 5.0))
    assert fast.wins(slow) == 2
    assert fast.ratio(slow) == 9 / 8


@pytest.mark.parametrize("elements", [1, 7, 1 << 18])
def test_the_parallel_copy_copies_everything(elements: int) -> None:
    copy = bench.ParallelCopy(elements)
    copy._target[:] = 0
    copy()
    assert np.all(copy._target == 1)


def test_a_case_is_timed_beside_its_baselines() -> None:
    result = bench_kernels.run_case(SMALL, runs=7)
    assert {bench_kernels.COPY, bench_kernels.RELU, bench_kernels.CHAIN, bench_kernels.NATIVE} <= set(result.timings)
    assert not set(bench_kernels.OTHERS) & set(result.refused)
    for label, error in result.relative.items():
        assert error < {"gn_onnx, float16": 1e-3, "gn_onnx, bfloat16": 8e-3}.get(label, 3e-5)
    assert json.dumps(result.to_json())


def test_no_speed_up_over_or_of_something_wrong() -> None:
    timing = bench.Timing("x", (1.0, 2.0, 3.0))
    timings = {bench_kernels.OURS: timing, bench_kernels.CHAIN: timing, bench_kernels.NATIVE: timing}
    result = bench_kernels.KernelResult(SMALL, timings, {}, {bench_kernels.CHAIN: "off by 1"})
    assert result.speed_up(bench_kernels.CHAIN) is None
    assert result.speed_up(bench_kernels.NATIVE) == 1
    wrong = bench_kernels.KernelResult(SMALL, timings, {}, {bench_kernels.OURS: "off by 1"})
    assert wrong.speed_up(bench_kernels.NATIVE) is None


def test_a_turn_begins_with_runs_that_are_not_timed() -> None:
    calls: list[str] = []
    variants = {name: lambda name=name: calls.append(name) for name in "ab"}
    timings = bench.interleave(variants, runs=6, turn=3, warm_up=2)
    assert calls[-20:] == (["a"] * 5 + ["b"] * 5) * 2
    assert len(timings["a"].microseconds) == 6


def test_the_table_has_a_row_per_case_and_no_ratio_over_what_is_wrong() -> None:
    timing = bench.Timing("x", (1.0, 2.0, 3.0))
    timings = dict.fromkeys((bench_kernels.COPY, bench_kernels.OURS, bench_kernels.CHAIN, bench_kernels.NATIVE), timing)
    timings[bench_kernels.RELU] = bench.Timing("x", (3.0, 4.0, 5.0))
    result = bench_kernels.KernelResult(SMALL, timings, {}, {bench_kernels.CHAIN: "off by 1"})
    report = {"machine": bench.machine(), "results": [result.to_json()]}
    text = bench_table.insert("a <!-- bench -->old<!-- /bench --> b", bench_table.table(report))
    assert "old" not in text
    row = text.splitlines()[5]
    assert row.startswith("| small: 1×8×6×6, 2 groups, silu | 2.0 | 2.0 [1.2 to 2.8] |")
    assert row.endswith("| 1.00 | 0.50 |  | 1.00 |  |  |  |  |  |")


def test_a_model_is_timed_in_all_variants(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "detector.onnx"
    path.write_bytes(detector().SerializeToString())
    assert cli.main(["bench", str(path), "--runs", "7", "--json", "--shape", "image=1,3,32,32"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["machine"]["threads"] >= 1
    result = report["results"][0]
    assert result["sites"] == 2
    assert {bench_models.ORIGINAL, bench_models.FUSED} <= set(result["timings"])
    assert 0 < result["group_norm_share"][bench_models.ORIGINAL] < 1
    # Two thirds of this model's nodes are a GroupNorm's: what they were expanded to is found again.
    for label in (bench_models.FUSED, bench_models.NATIVE):
        assert result["group_norm_share"][label] > 0.1, label
    if ort_runner.find_library() is not None:
        assert bench_models.FUSED_LIBRARY in result["timings"]
    assert "original" in captured.err


def test_a_bar_shows_every_round(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "detector[red].onnx"
    path.write_bytes(detector().SerializeToString())
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert cli.main(["bench", str(path), "--runs", "7", "--shape", "image=1,3,16,16"]) == 0
    shown = capsys.readouterr().err
    assert "0/7" in shown  # counted in rounds, not in models
    assert "detector[red]" in shown


def test_a_variant_that_differs_gets_no_speed_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "detector.onnx"
    path.write_bytes(detector().SerializeToString())
    real = bench_models.compare_outputs
    monkeypatch.setattr(bench_models, "compare_outputs", lambda a, b, **_: real(a, b, tolerance=-1.0))
    assert cli.main(["bench", str(path), "--runs", "7", "--shape", "image=1,3,16,16"]) == 1
    assert "no speed-up given: output 'features' differs" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_plot(tmp_path: pathlib.Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"bench.{suffix}"
    assert cli.main(["bench", "--kernels", "--only", "P7", "--runs", "7", "--plot", str(path)]) == 0
    assert path.stat().st_size > 1000


def test_a_plot_that_cannot_be_written_is_refused_before_anything_is_timed(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "detector.svg"
    model.write_bytes(detector().SerializeToString())
    for plot, words in (
        (model, "is the model itself"),
        (tmp_path / "plot.gif", "ends in .png or .svg"),
        (tmp_path / "nowhere" / "plot.svg", "there is no folder"),
        (tmp_path, "ends in .png or .svg"),
    ):
        assert cli.main(["bench", str(model), "--plot", str(plot)]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert model.read_bytes() == detector().SerializeToString()


def test_the_plot_of_many_models(tmp_path: pathlib.Path) -> None:
    """Models of the same name, of very different times, one without a variant; bars and words are all there."""
    pytest.importorskip("matplotlib")
    timings = {label: bench.Timing(label, (time,) * 7) for label, time in (("slow", 4e5), ("fast", 1e5))}
    small = {"slow": bench.Timing("slow", (50.0,) * 6 + (5000.0,))}
    groups = [("model", timings), ("model", small), *((f"model {index}", timings) for index in range(6))]
    path = tmp_path / "bench.svg"
    bench_plot.plot(groups, path, title="P", order=("slow", "fast"), ours=("fast",), baseline="slow")
    drawn = path.read_text()
    assert drawn.count("<!-- fast -->") == 7
    assert drawn.count("<!-- slow -->") == 8
    assert drawn.count("<!-- 100 ms   4.00 × -->") == 7
    assert "<!-- 50 µs -->" in drawn


def test_unknown_cases_are_a_usage_error() -> None:
    assert cli.main(["bench", "--kernels", "--only", "no such case"]) == 2
    assert cli.main(["bench", "--kernels", "--runs", "0"]) == 2
