"""`make picture`: the README's picture, from what is measured here: docs/benchmark.json and docs/picture.svg.

    python -m models.picture --measure     exports, fuses and times the models, writes docs/benchmark.json
    python -m models.picture               draws docs/picture.svg and the README's table from it

On the left is the graph of one GroupNorm of the detector before and after fusing, as `gn-onnx report` draws it; on the right
the time in GroupNorm nodes, from ONNX Runtime's profile, and of whole models.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import sys
import tempfile
from typing import Any

import onnx
import torch

import gn_onnx
from gn_onnx.benchmarks import bench, bench_models
from gn_onnx.checking.scope import scopes
from gn_onnx.files import fuse_file
from gn_onnx.reporting import page_parts, svg
from gn_onnx.reporting.report import value_name
from models import registry
from models.exporting import Form

ROOT = pathlib.Path(__file__).parent.parent
DATA, PICTURE, README = ROOT / "docs" / "benchmark.json", ROOT / "docs" / "picture.svg", ROOT / "README.md"
MODELS = {
    "fcos": None,
    "mask_rcnn_head": None,
    "monai_segresnet_2d": (1, 3, 256, 256),
    "monai_unet": (1, 1, 256, 256),
    "smp_fpn": (1, 3, 384, 384),
    "unet2d": None,
    "vae_decoder": None,
}
"""Detection, segmentation, diffusion: each with the shape of its input where that is not the module's own."""

PICTURED = {
    "fcos": "FCOS detector, ResNet-50",
    "monai_segresnet_2d": "SegResNet, MONAI",
    "unet2d": "UNet2D, diffusers",
    "vae_decoder": "VAE decoder, diffusers",
}
"""Those in the picture, with the words there."""

BEGIN, END = "<!-- benchmark -->", "<!-- /benchmark -->"

SHOWN = {
    bench_models.NATIVE: ("ONNX's GroupNormalization, plain ONNX Runtime", "#b8bcc8"),
    bench_models.ORIGINAL: ("as exported", "#8b8f9c"),
    bench_models.FUSED_LIBRARY: ("fused, with the library", "#3e63dd"),
}
"""Variant -> words and colour, from top to bottom."""

_STYLE = """
svg rect{fill:none;stroke:#1c2024}svg rect.value{stroke:none;fill:#e8e8ec}svg rect.fused{fill:#3e63dd;stroke:none}
svg rect.fused+text{fill:#fff}svg text{font:13px system-ui,sans-serif;text-anchor:middle;fill:#1c2024}
svg .arrow{fill:none;stroke:#60646c}svg .tip{fill:#60646c}
svg rect.paper{fill:#fff;stroke:#d9d9e0}svg rect.bar{stroke:none}svg text.left{text-anchor:start}
svg text.right{text-anchor:end;fill:#60646c}svg text.strong{font-weight:600;text-anchor:start}
svg text.ours{font-weight:600;text-anchor:start;fill:#3451b2}svg text.big{font-weight:600;font-size:28px;fill:#3451b2}
svg text.title{font-weight:600;font-size:17px;text-anchor:start}svg text.small{font-size:11px;fill:#60646c;text-anchor:start}
svg text.quiet{fill:#60646c}
"""


def measure(runs: int, seconds: float) -> dict[str, Any]:
    """Every model in all variants, on this machine."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in MODELS.items():
            path = pathlib.Path(folder) / f"{name}.onnx"
            model = registry.build(name)
            if shape is not None:
                model = dataclasses.replace(model, inputs=(torch.randn(shape, generator=torch.Generator().manual_seed(0)),))
            model.export(path, Form("torchscript", 17))
            result = bench_models.run_model(path, runs=runs, seconds=seconds)
            results.append(result.to_json() | {"model": name})
            print(f"{name}: {result.timings[bench_models.ORIGINAL].median / 1e3:.1f} ms", flush=True)
    return {"machine": bench.machine(), "results": results}


def graphs() -> str:
    """Before and after of the detector's first GroupNorm with ReLU behind it, side by side."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "fcos.onnx"
        registry.build("fcos").export(path, Form("torchscript", 17))
        original = onnx.load(path)
    result = gn_onnx.fuse(original)
    site = next(site for site in result.fused if site.activation == "relu")
    before = page_parts.boxes_between(scopes(original, {})[()], value_name(site.x), value_name(site.output))
    before = [svg.Box(box.key, "x" if box.kind == "value" else box.text, box.inputs, box.kind) for box in before]
    before[-1] = svg.Box("output", "y", before[-1].inputs, "value")
    after = [
        svg.Box("x", "x", kind="value"),
        svg.Box("gn", "GroupNormRelu", ("x",), "fused"),
        svg.Box("y", "y", ("gn",), "value"),
    ]  # fmt: skip
    left, right = svg.draw(before, label="before"), svg.draw(after, label="after")
    nodes = f"{fuse_file.count_nodes(original)} → {fuse_file.count_nodes(result.model)}"
    middle = 216, 478
    heads = _text(middle[0], 54, f"as exported: {len(before) - 2} nodes", "") + _text(middle[1], 54, "fused: 1 node", "")
    sums = [("quiet", 0, "in the whole detector"), ("big", 34, str(len(result.fused))), ("quiet", 54, "GroupNorms fused")]
    sums += [("big", 96, nodes), ("quiet", 116, "nodes")]
    sums_text = "".join(_text(middle[1], 310 + y, words, kind) for kind, y, words in sums)
    return heads + sums_text + _centred(left, middle[0], 64) + _centred(right, middle[1], 64)


def _centred(picture: str, middle: int, y: int) -> str:
    """An SVG element at its natural size inside another."""
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', picture).groups())  # type: ignore[union-attr]
    x = middle - width / 2
    return picture.replace("<svg ", f'<svg x="{x:g}" y="{y}" width="{width:g}" height="{height:g}" ', 1)


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{svg.escape(text)}</text>'


def bars(data: dict[str, Any], left: int, width: int) -> tuple[str, int]:
    """Time in GroupNorm nodes of every model; the longest bar of a model takes the whole width. Text and height."""
    parts, y = [], 58
    for result in data["results"]:
        if result["model"] not in PICTURED:
            continue
        times = {label: result["group_norm_ms"][label] for label in SHOWN if label in result["group_norm_ms"]}
        longest, ours = max(times.values()), times[bench_models.FUSED_LIBRARY]
        before, after = (result["group_norm_share"][label] for label in (bench_models.ORIGINAL, bench_models.FUSED_LIBRARY))
        parts.append(_text(left, y, PICTURED[result["model"]], "strong"))
        parts.append(_text(left + width + 70, y, f"{before:.0%} → {after:.0%} of the run", "right"))
        y += 2
        for label, time in times.items():
            y += 20
            length = max(2.0, width * time / longest)
            size = f'x="{left}" y="{y - 12}" width="{length:.1f}" height="16" rx="2"'
            parts.append(f'<rect class="bar" {size} style="fill:{SHOWN[label][1]}"/>')
            parts.append(_text(left + length + 6, y + 1, f"{time:.3g} ms", "left"))
        less = f"{times[bench_models.ORIGINAL] / ours:.1f} × faster than as exported"
        parts.append(_text(left + width * ours / longest + 76, y + 1, less, "ours"))
        y += 36
    for words, colour in SHOWN.values():
        parts.append(f'<rect class="bar" x="{left}" y="{y - 10}" width="12" height="12" style="fill:{colour}"/>')
        parts.append(_text(left + 18, y, words, "left"))
        y += 20
    return "".join(parts), y


def draw(data: dict[str, Any]) -> str:
    """The whole picture as SVG."""
    left, width = 620, 320
    plot, height = bars(data, left, width)
    facts = data["machine"]
    runtime = facts.get("onnxruntime") or facts.get("onnxruntime-gpu")
    caption = (
        f"{facts['processor']}, {facts['threads']} threads, CPU provider of ONNX Runtime {runtime}; float32."
        " Median of each node over nine profiled runs, summed."
    )
    height = max(height, 500) + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1030 {height + 20}" width="1030" height="{height + 20}"'
        f' role="img" aria-label="One GroupNorm before and after fusing, and times"><style>{_STYLE}</style>'
        f'<rect class="paper" x=".5" y=".5" width="1029" height="{height + 19}" rx="10"/>'
        f"{_text(24, 28, 'One GroupNorm and ReLU of a detector', 'title')}{graphs()}"
        f"{_text(left, 28, 'Time in GroupNorm nodes per run', 'title')}{plot}"
        f"{_text(24, height, caption, 'small')}</svg>\n"
    )


def table(data: dict[str, Any]) -> str:
    """The measured numbers in Markdown."""
    facts = data["machine"]
    runtime = facts.get("onnxruntime") or facts.get("onnxruntime-gpu")
    labels = [label for label in data["results"][0]["timings"] if label != bench_models.ORIGINAL]
    lines = [
        f"{facts['processor']}, {facts['threads']} threads of a shared machine, ONNX Runtime {runtime}, CPU provider. Cells:"
        " milliseconds per run, median [p10 to p90] of interleaved runs; in brackets the share in GroupNorm nodes; how many"
        " times faster than as exported in the median round, and in how many of the rounds.",
        "",
        f"| model | as exported | {' | '.join(labels)} |",
        f"|{' --- |' * (len(labels) + 2)}",
    ]
    for result in data["results"]:
        cells = []
        for label in (bench_models.ORIGINAL, *labels):
            timing, share = result["timings"].get(label), result["group_norm_share"].get(label)
            if timing is None:
                cells.append("-")
                continue
            cell = f"{timing['median_us'] / 1e3:.3g} [{timing['p10_us'] / 1e3:.3g} to {timing['p90_us'] / 1e3:.3g}]"
            cell += f" ({share:.0%})" if share is not None else ""
            ratio = result["speed_up"].get(label)
            if ratio and label != bench_models.ORIGINAL:
                cell += f", {ratio:.2f} ×, {result['faster_runs'][label]} of {timing['runs']}"
            cells.append(cell)
        lines.append(f"| {result['model']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(readme: str, text: str) -> str:
    """The README with the numbers between its marks."""
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{text}\n{END}", readme, flags=re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.picture", description="The README's picture.")
    parser.add_argument("--measure", action="store_true", help="measure first")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=30.0, help="per model at most, about")
    arguments = parser.parse_args(argv)
    DATA.parent.mkdir(exist_ok=True)
    if arguments.measure:
        DATA.write_text(json.dumps(measure(arguments.runs, arguments.seconds), indent=1) + "\n")
    data = json.loads(DATA.read_text())
    PICTURE.write_text(draw(data))
    README.write_text(with_table(README.read_text(), table(data)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
