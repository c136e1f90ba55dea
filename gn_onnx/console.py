"""Where text goes: messages for people to stderr, data for programs to stdout; colour on a terminal only."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from gn_onnx.errors import GnOnnxError

_STYLES = {"good": "32", "bad": "31", "warn": "33", "quiet": "2", "strong": "1"}

_LONGEST = 2000
"""Characters of an error: more is a name of megabytes, not a message."""


class Console:
    """Prints for one command."""

    def __init__(self) -> None:
        terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = terminal and not os.environ.get("NO_COLOR")

    def say(self, text: str = "") -> None:
        """One line or several to stderr."""
        with contextlib.suppress(OSError):  # a full disk, or nobody who reads it: the command's work counts
            print(_printable(text, sys.stderr.encoding), file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        """One line, whatever names and messages it is made of: a hostile model chooses its names."""
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
        if len(shown) > _LONGEST:
            shown = f"{shown[: _LONGEST // 2]} … {shown[-_LONGEST // 2 :]}"
        self.say(f"{self.paint('gn-onnx: error:', 'bad')} {shown}")

    def data(self, value: object) -> None:
        """JSON to stdout; numbers that JSON has no word for become null."""
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        text = json.dumps(_finite(value), indent=2, ensure_ascii=not utf8)
        with self._writing():
            print(text.encode("utf-8", "backslashreplace").decode("utf-8"))

    def flush(self) -> None:
        """Standard output, at the end.

        Raises:
            GnOnnxError: It cannot be written.
        """
        with self._writing():
            sys.stdout.flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            self.give_up_output()
            raise GnOnnxError(f"standard output: cannot write: {error.strerror or error}") from error

    def give_up_output(self) -> None:
        """What is still to be written goes nowhere; Python would fail once more when it flushes at exit."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colour else text


def _printable(text: str, encoding: str | None) -> str:
    """Text without control characters but for line ends and our own colours; lone surrogates are spelled out too."""
    parts = re.split(r"(\x1b\[\d*m)", text)
    parts[::2] = ("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in part) for part in parts[::2])
    shown = "".join(parts)
    encoding = encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def size(count: float) -> str:
    """1234567 as 1.23 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}" if count < 1000 else f"{count:.4g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
