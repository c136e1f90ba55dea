"""`gn-onnx report`: one page for people about one model."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from gn_onnx.console import Console

if TYPE_CHECKING:
    from gn_onnx.commands import Subparsers


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "report",
        help="write a page with what is fused, pictures, parity and times",
        description="Write one self-contained HTML page about fusing MODEL; MODEL itself is not changed.",
    )
    parser.add_argument("model", metavar="MODEL", type=pathlib.Path)
    parser.add_argument("-o", "--output", metavar="REPORT.html", type=pathlib.Path, required=True)
    parser.add_argument("--target", choices=("plugin", "onnx"), default="plugin")
    parser.add_argument("--no-bench", action="store_true", help="leave out the times")
    parser.add_argument("--shape", metavar="NAME=1,3,320,320", action="append", default=[], help="shape of an input")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Exit status 1 where the fused model is wrong; the page says so and is written all the same."""
    from gn_onnx.benchmarks import bench, bench_models
    from gn_onnx.checking.inputs import parse_shapes
    from gn_onnx.errors import GnOnnxError
    from gn_onnx.files import atomic_file, external_data, fuse_file, model_io
    from gn_onnx.reporting import html_report

    if fuse_file.same_file(arguments.model, arguments.output):
        raise GnOnnxError(f"{arguments.output}: is the model itself")
    shapes = parse_shapes(arguments.shape)
    atomic_file.check_target(arguments.output)
    proto = model_io.load_proto(arguments.model)
    external_data.must_not_be_replaced(proto, arguments.model.parent, arguments.output)
    report = fuse_file.examine(fuse_file.Request(model=arguments.model, target=arguments.target, shapes=shapes))
    timings = None
    if report.fused and not arguments.no_bench:
        try:
            timings = bench_models.run_model(arguments.model, shapes=shapes, runs=30, seconds=20)
        except GnOnnxError as error:
            console.say(f"  {console.paint('no times', 'warn')}: {error}")
    page = html_report.render(report, proto, timings, bench.machine())
    with atomic_file.replacing(arguments.output) as file:
        file.write(page.encode("utf-8"))
    console.say(report.to_text(console, check=True))
    console.say(f"  wrote {arguments.output}")
    return 0 if report.verification is None or report.verification.ok else 1
