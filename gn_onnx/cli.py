"""The command line: which command, which exit status. Each command is a file in `commands/`.

Exit status: 0 done; 1 `--check` found something to fuse, or the fused model is wrong (nothing is written then);
2 wrong usage, an invalid model, or output that cannot be written; 130 and 143 after an interrupt or SIGTERM (nothing
is half written then).

Only the standard library is imported before a command runs, so that `gn-onnx --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from gn_onnx import __version__
from gn_onnx.commands import bench, explain, fuse, info, parity, report, triton, unfuse
from gn_onnx.console import Console
from gn_onnx.errors import GnOnnxError, ParityError

COMMANDS = (fuse, explain, unfuse, parity, bench, info, report, triton)
"""In the order in which --help lists them; each module has `add_parser(subparsers)` and `run(arguments, console)`."""


class _Terminated(BaseException):
    """SIGTERM: unwinds like KeyboardInterrupt, so that temporary files go away."""


def parser() -> argparse.ArgumentParser:
    """The argument parser of all commands."""
    top = argparse.ArgumentParser(
        prog="gn-onnx",
        description="Every GroupNorm in an ONNX model as one node, and a kernel for that node in ONNX Runtime.",
        epilog="exit status: 0 done; 1 --check would change something, or the fused model is wrong; 2 usage or bad model",
    )
    top.add_argument("--version", action="version", version=f"gn-onnx {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = command.add_parser(subparsers)
        subparser.set_defaults(run=command.run)
        subparser.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: for developers")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None takes the process's.

    Returns:
        The exit status.
    """
    _open_closed_streams()
    console = Console()
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as exit_:  # argparse has printed usage, help or version
        return exit_.code if isinstance(exit_.code, int) else 2
    logging.basicConfig(
        level=(logging.ERROR, logging.INFO, logging.DEBUG)[min(arguments.verbose, 2)],
        format="%(message)s",
        stream=sys.stderr,
        force=True,
    )
    try:
        with _sigterm_raises():
            status: int = arguments.run(arguments, console)
            console.flush()
            return status
    except ParityError as error:
        console.error(str(error))
        return 1
    except GnOnnxError as error:
        console.error(str(error))
        return 2
    except BrokenPipeError:
        console.give_up_output()  # the reader, `head` say, has gone
        return 0
    except KeyboardInterrupt:
        console.error("interrupted")
        return 130
    except _Terminated:
        console.error("terminated")
        return 143


def _open_closed_streams() -> None:
    """Started with `2>&-`, say, the next file that is opened would be standard error, and logs would go into a model."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_terminated(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
