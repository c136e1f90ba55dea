"""The README's table of ONNX Runtime versions, made from what `make test-versions` saw.

`python tests/versions_table.py` writes it between the marks `<!-- versions -->` of the README; the tests hold each version
that they run against its row.
"""

from __future__ import annotations

import json
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from runtime_environments import ROOT, Version, text

README = ROOT / "README.md"
SEEN = ROOT / "out" / "versions.json"
BEGIN, END = "<!-- versions -->", "<!-- /versions -->"

TYPES = ("float32", "float16", "bfloat16", "float64")
COLUMNS = {
    "fused model": ["fused detector", *(f"fused {kind}" for kind in TYPES)],
    "`GroupNormalization`, opset 21": ["native float32", "native float16", "native float64"],
    "the same in bfloat16": ["native bfloat16"],
    "`GroupNormalization`, opset 18": ["native, opset 18"],
}
"""Kinds of models, and the cases that stand for each; all of one kind have to come out alike."""

Line = Mapping[str, Any]


def outcome(line: Line) -> str:
    """How a model ran: on our kernel, by the function body or subgraph that the runtime puts in its place, or not."""
    if "refused" in line:
        return "refused"
    return "kernel" if line["kernels"] else "function"


def row(version: Version, lines: Iterable[Line]) -> str:
    """One version's line of the table: for each kind of model without and with the library.

    Raises:
        AssertionError: Cases of one kind did not come out alike.
    """
    seen = {(line["case"], line["how"]): outcome(line) for line in lines if line["how"] != "two sessions"}
    cells = [text(version)]
    for cases in COLUMNS.values():
        for how in ("without", "with"):
            outcomes = {seen[case, how] for case in cases}
            assert len(outcomes) == 1, f"{text(version)}, {cases} {how}: {outcomes}"
            cells += outcomes
    return f"| {' | '.join(cells)} |"


def table(rows: Iterable[str]) -> str:
    heads = [f"{kind}: {how}" for kind in COLUMNS for how in ("without", "with the library")]
    return "\n".join([f"| ONNX Runtime | {' | '.join(heads)} |", f"|{' --- |' * (len(heads) + 1)}", *rows])


def with_table(readme: str, rows: Iterable[str]) -> str:
    """The README with the table as it should be."""
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{table(rows)}\n{END}", readme, flags=re.DOTALL)


def written_row(version: Version) -> str | None:
    """The version's row as the README has it; None for one that was not out yet when the table was made."""
    found = re.search(rf"^\| {re.escape(text(version))} \|.*$", README.read_text(), re.MULTILINE)
    return found.group(0) if found else None


def main(seen: pathlib.Path = SEEN) -> None:
    README.write_text(with_table(README.read_text(), json.loads(seen.read_text())))


if __name__ == "__main__":
    main()
    sys.exit(0)
