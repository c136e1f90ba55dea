"""`gn-onnx unfuse`: fused nodes back to portable operators."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from gn_onnx.console import Console

if TYPE_CHECKING:
    from gn_onnx.commands import Subparsers


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "unfuse",
        help="write the model with fused nodes expanded to portable operators",
        description="Expand fused nodes to operators that every runtime knows.",
    )
    parser.add_argument("model", metavar="MODEL", type=pathlib.Path)
    parser.add_argument("-o", "--output", metavar="OUT", type=pathlib.Path, required=True)
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    import gn_onnx
    from gn_onnx.checking import site_check
    from gn_onnx.errors import GnOnnxError
    from gn_onnx.files import fuse_file, model_io

    model, output = arguments.model, arguments.output
    if fuse_file.same_file(model, output):
        raise GnOnnxError(f"{output}: is the model itself")
    proto = model_io.load_proto(model)
    fused = sum(site_check.is_group_norm(node) for node in fuse_file.all_nodes(proto))
    expanded = gn_onnx.unfuse(model_io.to_ir(proto, folder=model.parent, name=str(model)))
    result = model_io.to_proto(expanded, like=proto)
    model_io.save(result, output, data_folder=model.parent)
    left = sum(site_check.is_group_norm(node) for node in fuse_file.all_nodes(result))
    if arguments.json:
        console.data({"model": str(model), "output": str(output), "unfused": fused - left, "left": left})
    else:
        console.say(f"  unfused {fused - left:6}\n  wrote {output}")
    return 0
