"""`make demo`: a detector out of PyTorch, through `gn-onnx fuse`, into ONNX Runtime, and the same numbers come out.

Exit status 1 where an output is further than 1e-4 from PyTorch's, relative to its largest value, or where a GroupNorm
was not fused.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime

import gn_onnx
from gn_onnx.benchmarks import bench
from models import detections, registry
from models.exporting import Form

LIMIT = 1e-4
"""Largest difference from PyTorch, relative to the output's largest value."""

RUNS = 20


def session(path: pathlib.Path, *, library: bool) -> onnxruntime.InferenceSession:
    """A model on ONNX Runtime's CPU provider, with or without our operator library."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # several sessions share the processor
    if library:
        return gn_onnx.session(path, ["CPUExecutionProvider"], options)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def count_group_norms(path: pathlib.Path) -> tuple[int, int]:
    """GroupNorm nodes and all nodes of a model's graph; constants do not count."""
    nodes = [node for node in onnx.load(path, load_external_data=False).graph.node if node.op_type != "Constant"]
    return sum(node.op_type.startswith("GroupNormalization") for node in nodes), len(nodes)


def main() -> int:
    """The whole demo."""
    with tempfile.TemporaryDirectory() as folder:
        return run(pathlib.Path(folder))


def run(folder: pathlib.Path) -> int:
    """The demo with its files in `folder`; returns the exit status."""
    model = registry.build("fcos")
    wanted = len(model.group_norms())
    size = model.inputs[0].shape[-1]
    print(f"FCOS-style detector, ResNet-50 and FPN, {size} x {size}: {wanted} GroupNorms in PyTorch\n")

    original, fused, standard = (folder / name for name in ("fcos.onnx", "fcos.gn.onnx", "fcos_opset21.onnx"))
    model.export(original, Form("torchscript", 17))
    model.export(standard, Form("dynamo", 21))
    print("$ gn-onnx fuse fcos.onnx -o fcos.gn.onnx", flush=True)
    command = [sys.executable, "-m", "gn_onnx", "fuse", original.name, "-o", fused.name]
    if subprocess.run(command, cwd=folder, check=False).returncode:
        print("\nFAILED: gn-onnx fuse")
        return 1

    found, nodes = count_group_norms(fused)
    print(f"\nGroupNorms fused  {found} of {wanted}")
    print(f"nodes             {count_group_norms(original)[1]} -> {nodes}")
    sessions = {
        "original": session(original, library=False),
        "fused, without library": session(fused, library=False),
        "fused, with library": session(fused, library=True),
        "opset 21, without library": session(standard, library=False),
        "opset 21, with library": session(standard, library=True),
    }
    worst = print_parity(model, sessions)
    print_latency(model, sessions)
    if found != wanted:
        print(f"\nFAILED: {wanted - found} GroupNorms are not fused")
    elif count_group_norms(standard)[0] != wanted:
        print("\nFAILED: the dynamo export has other GroupNorms than PyTorch")
    elif not worst <= LIMIT:
        print(f"\nFAILED: relative difference {worst:.1e}, at most {LIMIT:.0e} is allowed")
    else:
        print(f"\nok: every GroupNorm fused, every output within {LIMIT:.0e} of PyTorch")
        return 0
    return 1


def print_parity(model: registry.Model, sessions: dict[str, onnxruntime.InferenceSession]) -> float:
    """Every output of every session beside PyTorch's; returns the largest relative difference."""
    expected = [value.numpy() for value in model.outputs()]
    size = model.inputs[0].shape[-1]
    in_torch = detections.decode(*(value[0] for value in expected), size=size)
    print(f"\nparity with PyTorch, max |diff| (relative to the output's largest value); {len(in_torch.labels)} detections")
    print(f"{'':26}" + "".join(f"{name:>20}" for name in model.home.OUTPUTS) + f"{'boxes px / labels':>20}")
    worst = 0.0
    for label, running in sessions.items():
        outputs = running.run(None, model.feeds)
        cells = []
        for mine, theirs in zip(outputs, expected, strict=True):
            difference = float(np.abs(mine.astype(np.float64) - theirs).max())
            relative = difference / float(np.abs(theirs).max())
            cells.append(f"{difference:.1e} ({relative:.1e})")
            worst = max(worst, relative if np.isfinite(relative) else np.inf)
        found = detections.differences(detections.decode(*(value[0] for value in outputs), size=size), in_torch)
        cells.append(f"{found['boxes']:.1e} / {found['labels']:.0f}")
        print(f"{label:26}" + "".join(f"{cell:>20}" for cell in cells))
    return worst


def print_latency(model: registry.Model, sessions: dict[str, onnxruntime.InferenceSession]) -> None:
    """Medians of interleaved runs, so that whatever else the machine does falls on all alike."""
    feeds = model.feeds
    timings = bench.interleave(
        {label: lambda running=running: running.run(None, feeds) for label, running in sessions.items()},
        runs=RUNS, seconds=60.0, warm_up=1, pause=0.05,
    )  # fmt: skip
    facts = bench.machine()
    runs = len(timings["original"].microseconds)
    print(f"\nlatency, median of {runs} interleaved runs [p10 to p90]")
    print(f"{facts['processor']}, {facts['threads']} threads, ONNX Runtime {onnxruntime.__version__}")
    base = timings["original"].median
    for label, timing in timings.items():
        low, high = (timing.percentile(part) / 1e3 for part in (10, 90))
        print(f"{label:26}{timing.median / 1e3:8.1f} ms  [{low:.1f} to {high:.1f}]  {base / timing.median:.2f} x")


if __name__ == "__main__":
    sys.exit(main())
