"""`gn-onnx explain`: every site found, and every look-alike with the reason why it stays."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING

from gn_onnx.console import Console

if TYPE_CHECKING:
    from gn_onnx.commands import Subparsers
    from gn_onnx.group_norm import GroupNorm, Rejection


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "explain",
        help="list what would be fused, and what not and why",
        description="List every GroupNorm of MODEL, and every look-alike with the first operation that broke it.",
    )
    parser.add_argument("model", metavar="MODEL", type=pathlib.Path)
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Always exit status 0: a look-alike is not an error."""
    import gn_onnx
    from gn_onnx.files import model_io
    from gn_onnx.group_norm import GroupNorm, Rejection
    from gn_onnx.reporting.report import site_json

    found = gn_onnx.find_group_norms(model_io.load_model(arguments.model))
    sites = [record for record in found if isinstance(record, GroupNorm)]
    rejections = [record for record in found if isinstance(record, Rejection)]
    if arguments.json:
        console.data(
            {
                "model": str(arguments.model),
                "found": [site_json(site) for site in sites],
                "rejected": [dataclasses.asdict(rejection) for rejection in rejections],
            }
        )
        return 0
    for record in found:
        console.say(
            _site(record, console, arguments.verbose) if isinstance(record, GroupNorm) else _rejection(record, console)
        )
    console.say(f"  {len(sites)} GroupNorm found, {len(rejections)} look-alike{'s' * (len(rejections) != 1)} rejected")
    return 0


def _site(site: GroupNorm, console: Console, verbose: int) -> str:
    made_of = "one node" if site.native else f"{len(site.node_names)} nodes around {site.core}"
    text = f"  {console.paint('found', 'good')}     {site}  ({made_of})"
    return text + "".join(f"\n            {name}" for name in site.node_names) if verbose else text


def _rejection(rejection: Rejection, console: Console) -> str:
    text = f"  {console.paint('rejected', 'warn')}  {rejection}"
    return f"{text}\n            reached: {rejection.reached}" if rejection.reached else text
