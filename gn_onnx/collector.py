"""Python's cyclic garbage collector, and when it had better wait."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """No collection inside; as it was afterwards.

    A graph is one web of cycles, all of it alive. While thousands of nodes are made, the collector goes through them
    again and again and finds nothing: a quarter of the time that 10,000 nodes take.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
