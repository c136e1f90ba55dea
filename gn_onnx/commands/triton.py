"""`gn-onnx triton`: a model repository for NVIDIA Triton Inference Server."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from gn_onnx.console import Console

if TYPE_CHECKING:
    from gn_onnx.commands import Subparsers


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "triton",
        help="write the model and the operator library for Triton Inference Server",
        description="Write MODEL, its configuration and the operator library into a model repository of Triton.",
    )
    parser.add_argument("model", metavar="MODEL", type=pathlib.Path)
    parser.add_argument("-o", "--output", metavar="REPOSITORY", type=pathlib.Path, required=True)
    parser.add_argument("--name", help="of the model in the server; default: the file's name")
    parser.add_argument(
        "--server-path", metavar="PATH", type=pathlib.PurePosixPath, help="where the server sees REPOSITORY, as /models"
    )
    parser.add_argument(
        "--max-batch-size",
        metavar="N",
        type=_natural,
        help="0: no batching; default: 8 where the first dimension of all inputs and outputs is one symbol, else 0",
    )
    parser.add_argument("--max-queue-delay", metavar="US", type=_natural, default=100, help="microseconds; default 100")
    parser.add_argument("--instances", metavar="N", type=_positive, default=1, help="copies, for each GPU; default 1")
    parser.add_argument("--kind", choices=("auto", "gpu", "cpu"), default="auto", help="auto: GPUs if there are any")
    parser.add_argument("--json", action="store_true", help="what was written as JSON on stdout")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    import gn_onnx
    from gn_onnx.serving import triton_config, triton_repository

    repository: pathlib.Path = arguments.output
    name = triton_repository.default_name(arguments.model) if arguments.name is None else arguments.name
    # Triton hands the path on as it is: a relative one would be looked up in the server's own folder.
    seen_at = pathlib.PurePosixPath(arguments.server_path or repository.absolute())
    library = seen_at / name / gn_onnx.library_path().name
    settings = triton_config.Settings(
        name=name,
        library=str(library),
        max_batch_size=arguments.max_batch_size,
        instances=arguments.instances,
        kind=arguments.kind,
        max_queue_delay=arguments.max_queue_delay,
    )
    config = triton_repository.write(arguments.model, repository, settings)
    cuda = bool(gn_onnx.build_info().get("cuda"))
    if arguments.json:
        console.data(
            {
                "model": str(arguments.model),
                "written": str(repository / name),
                "name": name,
                "max_batch_size": config.max_batch_size,
                "no_batching": config.reason,
                "library": str(library),
                "cuda": cuda,
            }
        )
        return 0
    batches = f"of up to {config.max_batch_size}" if config.max_batch_size else f"none: {config.reason}"
    console.say(f"  batches      {batches}\n  library      {library} (in the server)")
    if not cuda and arguments.kind != "cpu":
        console.say(
            "  note         the library has no CUDA kernels: GroupNorms run on the CPU (GN_ONNX_CUDA=ON builds them)"
        )
    console.say(f"  wrote {repository / name}")
    return 0


def _natural(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2147483647")
    return value


def _positive(text: str) -> int:
    value = _natural(text)
    if not value:
        raise argparse.ArgumentTypeError("at least 1")
    return value
