"""The README's table of kernels, made from what `gn-onnx bench --kernels --json` wrote.

`python -m gn_onnx.benchmarks.bench_table out/bench_kernels.json README.md` puts it between the marks `<!-- bench -->`.
"""

from __future__ import annotations

import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from gn_onnx.benchmarks.bench_kernels import CHAIN, COPY, NATIVE, OPENVINO, OTHERS, OURS, RELU, TORCH

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"

FLOORS = {COPY: "copy", RELU: "Relu"}
"""What we are compared with as a multiple of its time."""

RIVALS = {CHAIN: "chain", NATIVE: "GN-21", TORCH: "torch", OPENVINO: "OpenVINO"}

Report = Mapping[str, Any]


def table(report: Report) -> str:
    """Machine and one row per case, as Markdown. Times that were refused, or not taken, are left empty."""
    heads = ["GroupNorm", "copy µs", "gn_onnx µs [p10 to p90]", "GB/s", *(f"/ {name}" for name in FLOORS.values())]
    heads += [f"{name} /" for name in RIVALS.values()]
    heads += [label.removeprefix(f"{OURS}, ") for label in OTHERS]
    rows = [_row(result) for result in report["results"]]
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join([_machine(report["machine"]), "", *lines])


def _machine(facts: Mapping[str, Any]) -> str:
    versions = [("ONNX Runtime", "onnxruntime"), ("ONNX Runtime", "onnxruntime-gpu"), ("torch", "torch")]
    versions.append(("OpenVINO", "openvino"))
    named = [f"{name} {str(facts[key]).partition('-')[0]}" for name, key in versions if key in facts]
    return f"{facts['processor']}, {facts['threads']} threads, {', '.join(named)}:"


def _row(result: Mapping[str, Any]) -> list[str]:
    case, timings, refused = result["case"], result["timings"], result["refused"]
    shape = "×".join(str(size) for size in (case["batch"], case["channels"], *case["spatial"]))
    activation = "" if case["activation"] == "none" else f", {case['activation']}"
    label = f"{case['label']}: {shape}, {case['num_groups']} groups{activation}"
    if OURS not in timings or OURS in refused:
        return [label, f"{timings[COPY]['median_us']:.1f}", *[""] * (2 + len(FLOORS) + len(RIVALS) + len(OTHERS))]
    ours = timings[OURS]
    copy = timings[COPY]["median_us"]
    floors = [f"{ours['median_us'] / timings[name]['median_us']:.2f}" if name in timings else "" for name in FLOORS]
    spread = f"{ours['median_us']:.1f} [{ours['p10_us']:.1f} to {ours['p90_us']:.1f}]"
    cells = [label, f"{copy:.1f}", spread, f"{ours['gb_per_s']:.0f}", *floors]
    for name in (*RIVALS, *OTHERS):
        known = name in timings and name not in refused
        cells.append(f"{timings[name]['median_us'] / ours['median_us']:.2f}" if known else "")
    return cells


def insert(text: str, body: str) -> str:
    """The text with what is between the marks replaced.

    Raises:
        ValueError: It has no marks.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no {BEGIN} ... {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n{body}\n{END}", text)


def main(arguments: Sequence[str]) -> None:
    report, readme = (pathlib.Path(argument) for argument in arguments)
    text = readme.read_text(encoding="utf-8")
    readme.write_text(insert(text, table(json.loads(report.read_text(encoding="utf-8")))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
