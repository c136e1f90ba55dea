"""`gn-onnx fuse`: every GroupNorm of a model as one node."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from gn_onnx.console import Console

if TYPE_CHECKING:
    from gn_onnx.commands import Subparsers


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "fuse",
        help="write the model with every GroupNorm as one node",
        description="Write MODEL with every GroupNorm as one node, after checking that its outputs stay the same.",
    )
    parser.add_argument("model", metavar="MODEL", type=pathlib.Path)
    parser.add_argument("-o", "--output", metavar="OUT", type=pathlib.Path, help="default: MODEL with .gn.onnx")
    parser.add_argument("--in-place", action="store_true", help="replace MODEL itself")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something would be fused")
    parser.add_argument(
        "--target",
        choices=("plugin", "onnx"),
        default="plugin",
        help="plugin: our operator, runs everywhere (default); onnx: GroupNormalization of opset 21",
    )
    parser.add_argument("--no-activations", action="store_true", help="leave activations as nodes of their own")
    parser.add_argument(
        "--freeze-defaults",
        action="store_true",
        help="make constants of inputs that have a default value, as MXNet exports them",
    )
    parser.add_argument("--no-verify", action="store_true", help="write without checking the outputs")
    parser.add_argument(
        "--shape",
        metavar="NAME=1,3,320,320",
        action="append",
        default=[],
        help="shape of an input for the check",
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Exit status 1 where `--check` found something, or the fused model is wrong."""
    from gn_onnx.checking.inputs import parse_shapes
    from gn_onnx.errors import GnOnnxError
    from gn_onnx.files import fuse_file

    if arguments.in_place and arguments.output:
        raise GnOnnxError("give --in-place or -o, not both")
    request = fuse_file.Request(
        model=arguments.model,
        output=None if arguments.check else _output(arguments),
        target=arguments.target,
        activations=not arguments.no_activations,
        freeze_defaults=arguments.freeze_defaults,
        verify=not arguments.no_verify,
        in_place=arguments.in_place,
        shapes=parse_shapes(arguments.shape),
    )
    try:
        report = fuse_file.fuse_file(request)
    except fuse_file.Refused as refused:
        if arguments.json:
            console.data(refused.report.to_json())
        console.say(refused.report.to_text(console))
        raise
    if arguments.json:
        console.data(report.to_json())
    else:
        console.say(report.to_text(console, check=arguments.check))
    return 1 if arguments.check and report.fused else 0


def _output(arguments: argparse.Namespace) -> pathlib.Path | None:
    model: pathlib.Path = arguments.model
    if arguments.in_place:
        return model
    output: pathlib.Path | None = arguments.output
    if output is not None:
        return output
    return model.with_name(f"{model.stem}.gn.onnx") if model.name else None
