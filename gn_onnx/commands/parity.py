"""`gn-onnx parity`: how near a model is to its original, to PyTorch and to float64."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from gn_onnx.console import Console

if TYPE_CHECKING:
    from gn_onnx.commands import Subparsers


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "parity",
        help="compare outputs and every GroupNorm with the original, PyTorch and float64",
        description="Compare every output and every GroupNorm of MODEL with a reference.",
    )
    parser.add_argument("model", metavar="MODEL", type=pathlib.Path)
    reference = parser.add_mutually_exclusive_group(required=True)
    reference.add_argument("--against", metavar="ORIGINAL", type=pathlib.Path, help="the model before fusing")
    reference.add_argument("--torch", metavar="MODULE:FUNCTION", help="builds the PyTorch module and example inputs")
    parser.add_argument("--decode", metavar="MODULE:FUNCTION", help="from the outputs to boxes, scores and labels")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tolerance", type=float, help="relative to the largest value; default: by type")
    parser.add_argument("--shape", metavar="NAME=1,3,320,320", action="append", default=[], help="shape of an input")
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Exit status 1 where an output or a site is too far away."""
    from gn_onnx.checking import detailed_parity, ort_runner, torch_parity
    from gn_onnx.checking.inputs import parse_shapes

    providers = ort_runner.providers(arguments.provider)
    decode = detailed_parity.load_function("--decode", arguments.decode) if arguments.decode else None
    if arguments.torch:
        report = torch_parity.against_torch(
            arguments.model,
            detailed_parity.load_function("--torch", arguments.torch),
            providers=providers,
            tolerance=arguments.tolerance,
            decode=decode,
        )
    else:
        report = detailed_parity.against_original(
            arguments.model,
            arguments.against,
            providers=providers,
            shapes=parse_shapes(arguments.shape),
            tolerance=arguments.tolerance,
            decode=decode,
        )
    if arguments.json:
        console.data(report.to_json())
    else:
        console.say(report.to_text())
        console.say(f"  parity  {console.paint('ok', 'good') if report.ok else console.paint('FAILED', 'bad')}")
    return 0 if report.ok else 1
