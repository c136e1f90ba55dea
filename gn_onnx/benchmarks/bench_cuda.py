"""The one script for a GPU: are the CUDA kernels right, and how fast are they beside everything else.

    python -m gn_onnx.benchmarks.bench_cuda --json results.json      all of it, in under six minutes
    python -m gn_onnx.benchmarks.bench_cuda --dry-run --library libgn_emulated.so
                                                          the checks alone, on the emulated kernels, without a GPU

1. Checks every regime, type, layout and activation against float64, with poisoned outputs, fresh inputs, the same bits
   in every run and every batch.
2. Runs compute-sanitizer (memcheck, racecheck, synccheck) on a reduced set of checks where it is installed.
3. Times, each against the same tensors: a device-to-device copy (the floor), an empty kernel, ours, PyTorch, torch.compile,
   and in ONNX Runtime with IO binding and CUDA graphs the exported chain, GroupNormalization expanded, the contrib
   GroupNorm and ours.

The table comes last, the JSON holds everything. Exit status 1 where a check failed.
Imports: torch and onnxruntime inside functions.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import shutil
import subprocess
import sys
import time

from gn_onnx.benchmarks import cuda_checks, cuda_models, cuda_rivals
from gn_onnx.benchmarks.cases import Case
from gn_onnx.benchmarks.cuda_raw import HostMemory, Limits, RawKernels, TorchMemory, make_problem
from gn_onnx.benchmarks.cuda_timing import Timed
from gn_onnx.console import Console
from gn_onnx.errors import GnOnnxError

_SECONDS = 340.0
_SHARE_OF_CHECKS = 0.25
_SANITIZER_TOOLS = ("memcheck", "racecheck", "synccheck")
_SANITIZER_SECONDS = 45.0

CASES = (
    Timed(Case("Detector head P3, 800 x 1344", 1, 256, (100, 168), activation="relu"), "float16"),
    Timed(Case("Mask R-CNN FPN P2", 1, 256, (200, 336)), "float16"),
    Timed(Case("UNet 64 x 64", 2, 320, (64, 64), activation="silu"), "float16"),
    Timed(Case("SegResNet 512 x 512", 1, 32, (512, 512), 8, "relu"), "float16"),
    Timed(Case("VAE decoder 512 x 512", 1, 256, (512, 512), activation="silu"), "float16"),
    Timed(Case("VAE decoder 512 x 512, last", 1, 128, (512, 512), activation="silu"), "float16"),
    Timed(Case("Detector head P7", 1, 256, (7, 11), activation="relu"), "float16"),
    Timed(Case("Box head, 100 regions", 100, 256, (14, 14), activation="relu"), "float16"),
    Timed(Case("UNet 64 x 64", 2, 320, (64, 64), activation="silu"), "float16", channels_last=True),
    Timed(Case("UNet 32 x 32", 2, 640, (32, 32), activation="silu"), "float16"),
    Timed(Case("UNet 8 x 8", 2, 2560, (8, 8), activation="silu"), "float16"),
    Timed(Case("UNet 64 x 64, 16 images", 32, 320, (64, 64), activation="silu"), "float16"),
    Timed(Case("SegResNet 128^3", 1, 32, (128, 128, 128), 8, "relu"), "float16"),
    Timed(Case("Detector head P3, 800 x 1344", 1, 256, (100, 168), activation="relu"), "float32"),
    Timed(Case("UNet 64 x 64", 2, 320, (64, 64), activation="silu"), "bfloat16"),
    Timed(Case("Mask R-CNN FPN P2", 1, 256, (200, 336)), "float16", channels_last=True),
    Timed(Case("VAE decoder 512 x 512, last", 1, 128, (512, 512), activation="silu"), "float16", channels_last=True),
    Timed(Case("PoolFormer, one group", 1, 96, (56, 56), 1), "float16"),
    Timed(Case("wav2vec 2.0, odd length", 1, 512, (31999,), 512), "float16"),
    Timed(Case("Detector head P4", 1, 256, (50, 84), activation="relu"), "float16"),
)
"""The most telling first: a case for which no time is left is left out."""


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 when all checks passed."""
    arguments = _parse(argv)
    console = Console()
    start = time.monotonic()
    deadline = start + arguments.seconds
    library = arguments.library or _installed_library()
    kernels = RawKernels(library)
    report: dict[str, object] = {"library": str(library), "dry_run": arguments.dry_run}
    memory = HostMemory() if arguments.dry_run else TorchMemory()
    limits = kernels.limits()
    report["machine"] = {} if arguments.dry_run else _machine(limits)
    outcome = cuda_checks.run(
        kernels,
        memory,
        checks=cuda_checks.REDUCED if arguments.reduced else cuda_checks.CHECKS,
        deadline=deadline if arguments.dry_run or arguments.reduced else start + _SHARE_OF_CHECKS * arguments.seconds,
        progress=console.say,
    )
    report["checks"] = outcome.to_json()
    failed = bool(outcome.failures) or outcome.checks == 0
    results: list[cuda_rivals.Result] = []
    if not (arguments.dry_run or arguments.reduced):
        report["sanitizer"] = sanitizer = _sanitize(library, deadline)
        failed |= any(verdict == "failed" for verdict in sanitizer.values())
        report["empty_kernel_us"] = empty = _time_empty(kernels)
        results = _time_all(kernels, limits, library, deadline, with_runtime=not arguments.no_runtime)
        report["cases"] = [result.to_json() for result in results]
        console.say(_table(results, empty))
        console.say(f"sanitizer: {sanitizer}")
    console.say(
        f"checks: {outcome.checks} made, {len(outcome.failures)} failed, {outcome.skipped} skipped, "
        f"largest error {outcome.worst:.2f} of its tolerance; {time.monotonic() - start:.0f} s"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2))
    return int(failed)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gn_onnx.benchmarks.bench_cuda", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--library", type=pathlib.Path, help="operator library (default: the installed one)")
    parser.add_argument("--dry-run", action="store_true", help="only the checks, on emulated kernels; no GPU")
    parser.add_argument("--reduced", action="store_true", help="only a few checks: what compute-sanitizer runs")
    parser.add_argument("--no-runtime", action="store_true", help="leave ONNX Runtime out")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="at most about this long (default 340)")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="everything that was found")
    return parser.parse_args(argv)


def _installed_library() -> pathlib.Path:
    from gn_onnx import runtime

    return pathlib.Path(runtime.library_path())


def _machine(limits: Limits) -> dict[str, object]:
    import torch

    from gn_onnx.benchmarks import bench

    properties = torch.cuda.get_device_properties(0)
    fields = {name: getattr(limits, name) for name, *_ in Limits._fields_}
    return bench.machine() | {"device": properties.name, "memory_bytes": properties.total_memory} | fields


def _sanitize(library: pathlib.Path, deadline: float) -> dict[str, str]:
    """passed, failed, or why it did not run, for each tool."""
    program = shutil.which("compute-sanitizer")
    verdicts = {}
    for tool in _SANITIZER_TOOLS:
        left = min(_SANITIZER_SECONDS, deadline - time.monotonic())
        if program is None or left < 5:
            verdicts[tool] = "compute-sanitizer is not installed" if program is None else "no time left"
            continue
        script = [
            sys.executable,
            "-m",
            "gn_onnx.benchmarks.bench_cuda",
            "--reduced",
            f"--library={library}",
            f"--seconds={left / 2}",
        ]
        command = [program, f"--tool={tool}", "--error-exitcode=9", *script]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            verdicts[tool] = f"not done within {left:.0f} s"
        else:
            refused = "Device not supported" in done.stdout
            verdicts[tool] = "passed" if done.returncode == 0 else "device not supported" if refused else "failed"
    return verdicts


def _time_empty(kernels: RawKernels) -> float:
    import torch

    from gn_onnx.benchmarks import cuda_timing

    def launch() -> None:
        kernels.empty(int(torch.cuda.current_stream().cuda_stream))

    return cuda_timing.graph_time(cuda_rivals.EMPTY, [launch] * 100).median


def _time_all(
    kernels: RawKernels, limits: Limits, library: pathlib.Path, deadline: float, *, with_runtime: bool
) -> list[cuda_rivals.Result]:
    import torch

    results = []
    for timed in CASES:
        left = deadline - time.monotonic()
        if left < 5:
            break
        case = timed.case
        shape = (case.batch, case.channels, math.prod(case.spatial))
        problem = make_problem(
            shape, case.num_groups, timed.dtype, channels_last=timed.channels_last, activation=case.activation
        )
        result = cuda_rivals.run_case(
            kernels,
            limits,
            timed,
            str(dataclasses.asdict(kernels.plan(problem, limits))),
            with_compile=left > 40,  # it compiles for seconds
            library=library,
            runtime=with_runtime and left > 25 and not timed.channels_last,
        )
        results.append(result)
        torch.cuda.empty_cache()
    return results


_COLUMNS = (
    (cuda_rivals.EAGER, "eager"),
    (cuda_rivals.COMPILED, "compile"),
    (cuda_models.CHAIN, "chain"),
    (cuda_models.NATIVE, "native"),
    (cuda_models.CONTRIB, "contrib"),
)


def _table(results: list[cuda_rivals.Result], empty_us: float) -> str:
    """Microseconds of one GroupNorm with a cold L2 cache, and how many times ours each rival takes."""
    heads = "".join(f"{head:>9}" for _, head in _COLUMNS)
    lines = [
        f"empty kernel {empty_us:.2f} us in a graph. L2 cold unless said; MB: x read once and y written once;",
        "of copy: the copy's time over ours; eager and compile as multiples of ours, the rest of ours in ONNX Runtime.",
        f"{'case':42}{'MB':>7}{'copy us':>9}{'ours us':>9}{'of copy':>9}{'warm us':>9}{'ORT us':>9}{heads}",
    ]
    for result in results:
        cold, warm = result.cold, result.warm
        values = [cold.get(cuda_rivals.COPY), cold.get(cuda_rivals.OURS), warm.get(cuda_rivals.OURS)]
        copy_us, ours_us, warm_us = (value.median if value else None for value in values)
        in_runtime = cold.get(cuda_models.OURS)
        share = copy_us / ours_us if copy_us and ours_us else None
        label = result.timed.label + ("" if result.is_cold else " (L2 not cold)")
        row = f"{label:42}{result.timed.bytes_moved / 1e6:7.1f}{_cell(copy_us, '.2f')}{_cell(ours_us, '.2f')}"
        row += f"{_cell(share, '.0%')}{_cell(warm_us, '.2f')}{_cell(in_runtime.median if in_runtime else None, '.2f')}"
        row += "".join(_cell(result.ratio(name), ".2f") for name, _ in _COLUMNS)
        lines.append(row)
        lines += [f"    {name}: {reason}" for name, reason in result.refused.items()]
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>9}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GnOnnxError as error:
        Console().error(str(error))
        sys.exit(2)
