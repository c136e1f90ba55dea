"""`gn-onnx bench`: time models before and after fusing, or single GroupNorms in real networks' shapes."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from gn_onnx.console import Console

if TYPE_CHECKING:
    from gn_onnx.benchmarks.bench_kernels import KernelResult
    from gn_onnx.benchmarks.bench_models import ModelResult
    from gn_onnx.commands import Subparsers


T = TypeVar("T")


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "bench",
        help="time models before and after fusing, or single GroupNorms",
        description="Time MODELs before and after fusing, or with --kernels GroupNorms in the shapes of real networks.",
    )
    parser.add_argument("models", metavar="MODEL", type=pathlib.Path, nargs="*")
    parser.add_argument("--kernels", action="store_true", help="single GroupNorms; on cuda the raw kernels, checked too")
    parser.add_argument("--only", metavar="TEXT", default="", help="with --kernels: cases whose label contains TEXT")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--runs", type=int, default=50, help="timed runs of each variant (default 50)")
    parser.add_argument("--seconds", type=float, default=30.0, help="at most about this long per model")
    parser.add_argument("--shape", metavar="NAME=1,3,320,320", action="append", default=[], help="shape of an input")
    parser.add_argument("--plot", metavar="FILE", type=pathlib.Path, help="bars as .png or .svg (needs matplotlib)")
    parser.add_argument("--json", action="store_true", help="as JSON on stdout, with facts about the machine")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Exit status 1 where a variant computes something else than the original: its speed means nothing."""
    from gn_onnx.benchmarks import bench, bench_cuda
    from gn_onnx.checking import ort_runner
    from gn_onnx.errors import GnOnnxError

    if arguments.provider == "cuda" and not arguments.models:
        return bench_cuda.main(["--json=-"] if arguments.json else [])
    if arguments.kernels == bool(arguments.models):
        raise GnOnnxError("give models, or --kernels")
    if arguments.runs < 1:
        raise GnOnnxError("--runs must be at least 1")
    if arguments.plot:
        _check_plot(arguments.plot, arguments.models)
    providers = ort_runner.providers(arguments.provider)
    results: list[Any] = (
        _kernels(arguments, console, providers) if arguments.kernels else _models(arguments, console, providers)
    )
    if arguments.json:
        console.data({"machine": bench.machine(), "results": [result.to_json() for result in results]})
    if arguments.plot:
        _plot(arguments, results)
    wrong = [reason for result in results for reason in result.refused.values() if "off by" in reason or "differs" in reason]
    return 1 if wrong else 0


def _kernels(arguments: argparse.Namespace, console: Console, providers: tuple[str, ...]) -> list[KernelResult]:
    from gn_onnx.benchmarks import bench_kernels
    from gn_onnx.benchmarks.cases import CASES
    from gn_onnx.errors import GnOnnxError

    cases = [case for case in CASES if arguments.only.lower() in case.label.lower()]
    if not cases:
        raise GnOnnxError(f"no case has {arguments.only!r} in its label")
    results = []
    for case, done in _progress(cases, console, lambda case: case.label):
        result = bench_kernels.run_case(case, providers=providers, runs=arguments.runs)
        done()
        results.append(result)
        shape = "x".join(map(str, case.shape))
        console.say(f"  {console.paint(case.label, 'strong')}  {shape}, {case.num_groups} groups, {case.activation}")
        for label, timing in result.timings.items():
            line = f"    {label:24}{timing.median:10.1f} µs  [{timing.percentile(10):.1f} – {timing.percentile(90):.1f}]"
            line += f"  {result.gb_per_s(label):7.1f} GB/s"
            if (ratio := result.speed_up(label)) is not None and label != bench_kernels.OURS:
                line += f"   ours {ratio:.2f} x"
            console.say(line)
        _refusals(result.refused, console)
    return results


def _models(arguments: argparse.Namespace, console: Console, providers: tuple[str, ...]) -> list[ModelResult]:
    from gn_onnx.benchmarks import bench_models
    from gn_onnx.checking.inputs import parse_shapes

    results = []
    for path, done in _progress(arguments.models, console, str, rounds=arguments.runs):
        result = bench_models.run_model(
            path,
            providers=providers,
            shapes=parse_shapes(arguments.shape),
            runs=arguments.runs,
            seconds=arguments.seconds,
            progress=done,
        )
        results.append(result)
        copy = f", parallel copy {result.copy_gb_per_s:.1f} GB/s" if result.sites else ""
        console.say(f"  {console.paint(str(path), 'strong')}  {result.sites} GroupNorm{copy}")
        for label, timing in result.timings.items():
            p10, median, p90 = (timing.percentile(percent) / 1e3 for percent in (10, 50, 90))
            line = f"    {label:24}{median:10.3f} ms  [{p10:.3f} – {p90:.3f}]"
            if (ratio := result.speed_up(label)) is not None and label != bench_models.ORIGINAL:
                line += f"  {ratio:5.2f} x, faster in {result.faster_runs(label)} of {len(timing.microseconds)} rounds"
            if label in result.shares:
                line += f"  {result.shares[label]:6.1%} in GroupNorm, {result.gb_per_s[label]:.1f} GB/s"
            console.say(line)
        _refusals(result.refused, console)
    return results


def _refusals(refused: dict[str, str], console: Console) -> None:
    for label, reason in refused.items():
        console.say(f"    {label:24}{console.paint('no speed-up given', 'warn')}: {reason}")


def _progress(
    items: list[T], console: Console, label: Callable[[T], str], *, rounds: int = 1
) -> Iterator[tuple[T, Callable[[], None]]]:
    """The items, each with what to call after one of its rounds, and a bar on a terminal where rich is installed."""
    try:
        if not console.colour:
            raise ImportError
        from rich.console import Console as RichConsole
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield from ((item, lambda: None) for item in items)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(items) * rounds)
        for index, item in enumerate(items):
            bar.update(task, description=escape(label(item)), completed=index * rounds)
            yield item, lambda: bar.advance(task)
        bar.update(task, completed=len(items) * rounds)


def _check_plot(plot: pathlib.Path, models: list[pathlib.Path]) -> None:
    """Before minutes of measuring: whether a picture may be written there, in whose place no model lies."""
    from gn_onnx.errors import GnOnnxError
    from gn_onnx.files import atomic_file

    if plot.suffix not in (".png", ".svg"):
        raise GnOnnxError(f"{plot}: the name of a picture ends in .png or .svg")
    target = atomic_file.check_target(plot)
    if any(model.resolve() == target for model in models):
        raise GnOnnxError(f"{plot}: is the model itself")


def _plot(arguments: argparse.Namespace, results: list[Any]) -> None:
    from gn_onnx.benchmarks import bench, bench_kernels, bench_models, bench_plot

    facts = bench.machine()
    if arguments.kernels:
        order: tuple[str, ...] = (
            bench_kernels.NATIVE, bench_kernels.CHAIN, bench_kernels.TORCH, bench_kernels.OPENVINO,
            bench_kernels.OURS, bench_kernels.COPY,
        )  # fmt: skip
        names = [result.case.label for result in results]
        ours, baseline = {bench_kernels.OURS}, bench_kernels.CHAIN
    else:
        order = (
            bench_models.NATIVE, bench_models.ORIGINAL, bench_models.FUSED,
            bench_models.FUSED_LIBRARY, bench_models.NATIVE_LIBRARY,
        )  # fmt: skip
        names = [_short_name(result.model, [other.model for other in results]) for result in results]
        ours, baseline = {bench_models.FUSED_LIBRARY, bench_models.NATIVE_LIBRARY}, bench_models.ORIGINAL
    groups = [
        (name, {label: timing for label, timing in result.timings.items() if label not in result.refused})
        for name, result in zip(names, results, strict=True)
    ]
    title = f"{facts['processor']}, {facts['threads']} threads, {arguments.provider}"
    bench_plot.plot(groups, arguments.plot, title=title, order=order, ours=ours, baseline=baseline)


def _short_name(path: str, others: list[str]) -> str:
    """The file's name, or the whole path where several are called model.onnx."""
    name = pathlib.Path(path).stem
    return name if sum(pathlib.Path(other).stem == name for other in others) == 1 else path
