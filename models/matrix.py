"""`make test-models`: every model, by both exporters, in every form; `models.table` makes the README's table of it.

    python -m models.matrix [MODEL...] [--quick] [--jobs N] [--resume] [--output FOLDER]

What is done stands in out/models.jsonl at once; `--resume` goes on from there after a break, in the same version.

Exit status 1 where a GroupNorm was not fused or a fused model is too far from PyTorch. What an exporter or ONNX Runtime
refuses stands in the table and is no failure.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time

import numpy as np
import torch

from models import checks, registry
from models.exporting import Form

EXPORTERS = (("torchscript", 17), ("dynamo", 18), ("dynamo", 20), ("dynamo", 21))
FORMS = tuple(
    Form(exporter, opset, dynamic, dtype)
    for dtype, (exporter, opset), dynamic in itertools.product(("float32", "float16"), EXPORTERS, (False, True))
)
QUICK = (Form("torchscript", 17), Form("dynamo", 20, dynamic=True), Form("dynamo", 18, dtype="float16"))


def main(argv: list[str] | None = None) -> int:
    """Runs the matrix."""
    parser = argparse.ArgumentParser(prog="python -m models.matrix", description="Every model in every form.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: all of {', '.join(registry.MODULES)}")
    parser.add_argument("--quick", action="store_true", help="three forms of each")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("out"), help="folder of models.jsonl")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="models at a time")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    arguments = parser.parse_args(argv)
    names = arguments.models or list(registry.MODULES)
    for name in names:
        missing = registry.missing_libraries(name)
        if missing:
            print(f"{name}: not installed: {', '.join(missing)}")
            return 1
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / "models.jsonl"
    if not arguments.resume:
        file.unlink(missing_ok=True)
    forms = QUICK if arguments.quick else FORMS
    there = {(row.model, row.form) for row in read(file)}
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs, context) as pool:
        left = {name: tuple(form for form in forms if (name, form) not in there) for name in names}
        done = [pool.submit(run, name, todo, file) for name, todo in left.items() if todo]
        for future in concurrent.futures.as_completed(done):
            future.result()
    order = {(name, form): i for i, (name, form) in enumerate(itertools.product(names, forms))}
    rows = sorted((row for row in read(file) if (row.model, row.form) in order), key=lambda row: order[row.model, row.form])
    failed = [row for row in rows if row.failures]
    print(f"\n{len(rows)} combinations, {sum(bool(row.refused) for row in rows)} refused, {len(failed)} failed")
    for row in failed:
        print(f"FAILED {row.model}, {row.form}: {'; '.join(row.failures)}")
    return 1 if failed else 0


def run(name: str, forms: tuple[Form, ...], file: pathlib.Path) -> None:
    """Forms of one model, one line of `file` each; float64 results are computed once per type and batch."""
    torch.set_num_threads(1)  # as `checks.run` does for ONNX Runtime
    model = registry.build(name)
    truths: dict[tuple[str, bool], list[np.ndarray]] = {}
    for form in forms:
        key = (form.dtype, form.dynamic)
        if key not in truths:
            truths[key] = checks.reference(model, form)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            row = checks.check(model, form, pathlib.Path(folder), truth=truths[key])
        verdict = "; ".join(row.failures) or row.refused or f"ok, {row.expected} fused, {max(row.errors.values()):.1e}"
        print(f"{model.name}, {form}: {verdict[:160]} ({time.perf_counter() - start:.1f} s)", flush=True)
        with file.open("a") as lines:
            lines.write(json.dumps(row.to_json()) + "\n")


def read(file: pathlib.Path) -> list[checks.Row]:
    """The rows of a file; none where there is no file."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [checks.Row.from_json(json.loads(line)) for line in lines]


if __name__ == "__main__":
    sys.exit(main())
