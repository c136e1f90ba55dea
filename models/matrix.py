"""`make test-models`: every model, by both exporters, in every form; what was seen is written to out/models/MODEL.json.

    python -m models.matrix [MODEL...] [--quick] [--resume] [--output FOLDER]

Each model runs in a process of its own: one that ends badly is one line of the result and not the end of the run. Exit
status 1 where a GroupNorm was not fused, something else was, or a fused model is too far from PyTorch. What an exporter or
ONNX Runtime refuses is kept and is no failure. `python -m models.table` makes the README's table of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

from gn_onnx.benchmarks import bench
from models import checks, registry
from models.exporting import Form

EXPORTERS = (("torchscript", 17), ("dynamo", 18), ("dynamo", 20), ("dynamo", 21))
FORMS = tuple(
    Form(exporter, opset, dynamic, dtype)
    for dtype, (exporter, opset), dynamic in itertools.product(("float32", "float16"), EXPORTERS, (False, True))
)
QUICK = (Form("torchscript", 17), Form("dynamo", 20, dynamic=True), Form("dynamo", 18, dtype="float16"))


def main(argv: list[str] | None = None) -> int:
    """Runs the matrix and writes what it saw."""
    parser = argparse.ArgumentParser(prog="python -m models.matrix", description="Every model in every form.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: all of {', '.join(registry.MODULES)}")
    parser.add_argument("--quick", action="store_true", help="three forms of each")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier, unfinished run has seen")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("out/models"), help="folder of the results")
    parser.add_argument("--here", action="store_true", help="in this process")
    arguments = parser.parse_args(argv)
    if arguments.here:
        torch.set_num_threads(1)  # as `checks.run` does for ONNX Runtime
        for name in arguments.models:
            run(registry.build(name), QUICK if arguments.quick else FORMS, arguments.output / f"{name}.json")
        return 0
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows, failed = [], []
    for name in arguments.models or registry.MODULES:
        missing = registry.missing_libraries(name)
        if missing:
            failed.append(f"{name}: not installed: {', '.join(missing)}")
            continue
        seen = arguments.output / f"{name}.json"
        if not arguments.resume:
            seen.unlink(missing_ok=True)
        flags = ["--quick"] * arguments.quick + ["--output", str(arguments.output)]
        status = subprocess.run([sys.executable, "-m", "models.matrix", name, "--here", *flags], check=False).returncode
        if status:
            failed.append(f"{name}: its process ended with status {status}")
        rows += read(seen)
    failed += [f"{row.model}, {row.form}: {'; '.join(row.failures)}" for row in rows if row.failures]
    print(f"\n{len(rows)} combinations, {sum(bool(row.refused) for row in rows)} refused, {len(failed)} failed")
    for line in failed:
        print(f"FAILED {line}")
    return 1 if failed else 0


def read(path: pathlib.Path) -> list[checks.Row]:
    """What is known of one model so far."""
    if not path.exists():
        return []
    return [checks.Row.from_json(row) for row in json.loads(path.read_text())["rows"]]


def run(model: registry.Model, forms: tuple[Form, ...], path: pathlib.Path) -> None:
    """All forms of one model that `path` does not have yet; float64 results are computed once per type and batch."""
    truths: dict[tuple[str, bool], list[np.ndarray]] = {}
    rows = read(path)
    for form in forms:
        if any(row.form == form for row in rows):
            continue
        key = (form.dtype, form.dynamic)
        if key not in truths:
            truths[key] = checks.reference(model, form)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            row = checks.check(model, form, pathlib.Path(folder), truth=truths[key])
        verdict = "; ".join(row.failures) or row.refused or f"ok, {row.expected} fused, {max(row.errors.values()):.1e}"
        print(f"{model.name}, {form}: {verdict[:160]} ({time.perf_counter() - start:.1f} s)", flush=True)
        rows.append(row)
        path.write_text(json.dumps({"machine": bench.machine(), "rows": [row.to_json() for row in rows]}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
