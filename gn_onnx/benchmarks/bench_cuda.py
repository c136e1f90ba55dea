"""The one script for a GPU: are the CUDA kernels right, and how fast are they beside everything else.

    python -m gn_onnx.benchmarks.bench_cuda --models FOLDER --json results.json      all of it, in under six minutes
    python -m gn_onnx.benchmarks.bench_cuda --dry-run --library libgn_emulated.so
                                    the checks, and the networks on the CPU, without a GPU

1. Checks every regime, type, layout and activation against float64, with poisoned outputs, fresh inputs, the same bits
   in every run and every batch.
2. Holds our error to PyTorch's own on four kinds of input.
3. Runs compute-sanitizer (memcheck, racecheck, synccheck) on a reduced set of checks where it is installed.
4. Times, each against the same tensors: a device-to-device copy (the floor), an empty kernel, ours, PyTorch, torch.compile,
   and in ONNX Runtime with IO binding and CUDA graphs the exported chain, GroupNormalization expanded, the contrib
   GroupNorm and ours.
5. Times whole networks in ONNX Runtime: as exported, fused, and without any GroupNorm (`make gpu-models` writes them).

The tables come last, the JSON holds everything. Exit status 1 where something was wrong.
Imports: torch and onnxruntime inside functions.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import pathlib
import sys
import time

from gn_onnx.benchmarks import (
    cuda_checks,
    cuda_end_to_end,
    cuda_parity,
    cuda_rivals,
    cuda_sanitizer,
    cuda_sessions,
    cuda_table,
)
from gn_onnx.benchmarks.cases import Case
from gn_onnx.benchmarks.cuda_raw import HostMemory, Limits, Memory, RawKernels, TorchMemory, make_problem
from gn_onnx.benchmarks.cuda_timing import Timed
from gn_onnx.console import Console
from gn_onnx.errors import GnOnnxError

_SECONDS = 340.0
_SHARE_OF_CHECKS = 0.2
_SECONDS_OF_NETWORKS = 90.0
_COMPILED_CASES = 10
"""torch.compile takes seconds for each."""

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
    """Exit status 0 when nothing was wrong."""
    arguments = _parse(argv)
    console = Console()
    start = time.monotonic()
    deadline = start + arguments.seconds
    library = arguments.library or _installed_library()
    kernels = RawKernels(library)
    report: dict[str, object] = {"library": str(library), "dry_run": arguments.dry_run}
    memory: Memory = HostMemory() if arguments.dry_run else TorchMemory()
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
    tables: list[str] = []
    if not arguments.reduced:
        failed |= _parity(kernels, memory, report, tables, on_device=not arguments.dry_run)
    if not (arguments.dry_run or arguments.reduced):
        report["sanitizer"] = verdicts = cuda_sanitizer.run(library, deadline)
        tables.append("compute-sanitizer: " + "; ".join(f"{tool} {verdict}" for tool, verdict in verdicts.items()))
        failed |= any(verdict.startswith(cuda_sanitizer.FAILED) for verdict in verdicts.values())
        _time_single(arguments, kernels, limits, library, deadline, report, tables)
    if arguments.models and not (arguments.reduced or arguments.no_runtime):
        operators = _installed_library() if arguments.dry_run else library
        networks = cuda_end_to_end.run(arguments.models, operators, deadline, on_device=not arguments.dry_run)
        report["networks"] = [network.to_json() for network in networks]
        failed |= any(network.wrong for network in networks)
        tables.append(cuda_end_to_end.table(networks))
    for text in tables:
        console.say(text)
    console.say(
        f"checks: {outcome.checks} made, {len(outcome.failures)} failed, {outcome.skipped} skipped, "
        f"largest error {outcome.worst:.2f} of its tolerance; {time.monotonic() - start:.0f} s"
    )
    if arguments.json == pathlib.Path("-"):
        console.data(report)
    elif arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2))
    return int(failed)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gn_onnx.benchmarks.bench_cuda", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--library", type=pathlib.Path, help="operator library (default: the installed one)")
    parser.add_argument("--models", metavar="FOLDER", type=pathlib.Path, help="networks that make gpu-models wrote")
    parser.add_argument("--dry-run", action="store_true", help="no times, on emulated kernels and the CPU; no GPU")
    parser.add_argument("--reduced", action="store_true", help="only a few checks: what compute-sanitizer runs")
    parser.add_argument("--no-runtime", action="store_true", help="leave ONNX Runtime out")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="at most about this long (default 340)")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="everything that was found; - is stdout")
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


def _parity(kernels: RawKernels, memory: Memory, report: dict[str, object], tables: list[str], *, on_device: bool) -> bool:
    """Whether our error is larger than PyTorch's anywhere."""
    if importlib.util.find_spec("torch") is None:
        tables.append("PyTorch is not installed: nothing to hold our error to")
        return False
    rows = cuda_parity.run(kernels, memory, "cuda" if on_device else "cpu")
    report["parity"] = [dataclasses.asdict(row) for row in rows]
    tables.append(cuda_parity.table(rows))
    return any(row.worse for row in rows)


def _time_single(
    arguments: argparse.Namespace,
    kernels: RawKernels,
    limits: Limits,
    library: pathlib.Path,
    deadline: float,
    report: dict[str, object],
    tables: list[str],
) -> None:
    """Times of single GroupNorms."""
    with_runtime = not arguments.no_runtime and importlib.util.find_spec("onnxruntime") is not None
    if with_runtime:
        cuda_sessions.use_pytorchs_libraries()
    report["empty_kernel_us"] = empty = _time_empty(kernels)
    until = deadline - (_SECONDS_OF_NETWORKS if arguments.models else 0)
    results = _time_all(kernels, limits, library, until, with_runtime=with_runtime)
    report["cases"] = [result.to_json() for result in results]
    tables.append(cuda_table.table(results, empty))
    if not with_runtime:
        tables.append("ONNX Runtime was left out" if arguments.no_runtime else "ONNX Runtime is not installed")
    if len(results) < len(CASES):
        tables.append(f"no time was left for {len(CASES) - len(results)} cases")


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
    for index, timed in enumerate(CASES):
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
            with_compile=index < _COMPILED_CASES and left > 20,
            library=library,
            runtime=with_runtime and left > 15 and not timed.channels_last,
        )
        results.append(result)
        torch.cuda.empty_cache()
    return results


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GnOnnxError as error:
        Console().error(str(error))
        sys.exit(2)
