"""The README's table of models, made from what `make test-models` saw: `python -m models.table [FILE]`."""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Sequence

from gn_onnx.benchmarks import bench
from models import matrix, registry
from models.checks import Row

README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- models -->", "<!-- /models -->"
SHORT = {"torchscript": "TorchScript", "dynamo": "dynamo"}


def text(rows: Sequence[Row], machine: dict[str, object]) -> str:
    """What stands in the README: a line per model with a cell per exporter, and all that was refused."""
    exporters = list(dict.fromkeys((row.form.exporter, row.form.opset) for row in rows))
    versions = ", ".join(
        f"{name} {machine[key]}"
        for key, name in (("onnxruntime", "ONNX Runtime"), ("onnxruntime-gpu", "ONNX Runtime"), ("torch", "torch"))
        if key in machine
    )
    head = ["model", "GroupNorms", *(f"{SHORT[exporter]} {opset}" for exporter, opset in exporters), "sites fused"]
    lines = [
        f"{len(rows)} combinations on {machine['processor']}, {machine['threads']} threads, {versions}. Cells: the largest"
        " error of any variant (static and open batch, both targets, with and without the library) against PyTorch in"
        " float64, relative to the output's largest value; float32 / float16.",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
    ]
    for name in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == name]
        cells = [_cell([row for row in mine if (row.form.exporter, row.form.opset) == key]) for key in exporters]
        fused = [count for row in mine for count in row.fused.values()]
        sites = f"{sum(fused)} of {sum(row.expected * len(row.fused) for row in mine)}"
        lines.append(f"| {' | '.join([name, str(mine[0].expected), *cells, sites])} |")
    refused = [row for row in rows if row.refused]
    done = "nothing" if not refused else f"{len(refused)} of {len(rows)} combinations"
    lines += ["", f"Refused by the exporter or by ONNX Runtime before anything was fused: {done}."]
    lines += [f"- {row.model}, {row.form}: {row.refused}" for row in refused]
    return "\n".join(lines)


def _cell(rows: Sequence[Row]) -> str:
    shown = []
    for dtype in ("float32", "float16"):
        mine = [row for row in rows if row.form.dtype == dtype]
        errors = [error for row in mine for error in row.errors.values()]
        if any(row.failures for row in mine):
            shown.append("FAILED")
        elif errors:
            shown.append(f"{max(errors):.1e}")
        elif mine:
            shown.append("refused")
    return " / ".join(shown) or "-"


def with_table(readme: str, table: str) -> str:
    """The README with another table; what people wrote above it stays."""
    return re.sub(f"({BEGIN}.*?<!-- table -->\n).*?({END})", lambda m: f"{m[1]}{table}\n{m[2]}", readme, flags=re.DOTALL)


def main(file: pathlib.Path) -> None:
    order = [(name, form) for name in registry.MODULES for form in matrix.FORMS]
    rows = sorted(matrix.read(file), key=lambda row: order.index((row.model, row.form)))
    README.write_text(with_table(README.read_text(), text(rows, bench.machine())))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "out/models.jsonl"))
