"""A run of ONNX Runtime that can be stopped: by Ctrl-C, by SIGTERM, and because it takes too long.

Python handles signals between two of its own instructions, so that a model with a loop that does not end would hear
neither. The run is made on a thread of its own and gets RunOptions, by which it is told to stop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from gn_onnx.errors import GnOnnxError

LONGEST_RUN = 300.0
"""Seconds that one run may take: nothing says of a loop whether it ends."""

_STOPPING = 10.0
"""Seconds to wait for a run that was told to stop, which it does behind the operator that it is in."""


def call(run: Callable[[Any], Any]) -> Any:
    """What `run(RunOptions)` returns.

    Raises:
        GnOnnxError: It took longer than `LONGEST_RUN`.
        Exception: What it raised.
    """
    import onnxruntime

    how = onnxruntime.RunOptions()
    outcome: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            outcome.append((run(how), None))
        except BaseException as error:  # for the thread that waits
            outcome.append((None, error))
        finished.set()

    # Not Thread.join alone: when a signal interrupts it, it takes the thread for one that has ended (Python 3.11). And a
    # thread that still runs when Python ends would take the process down with an abort.
    finished = threading.Event()
    worker = threading.Thread(target=work, daemon=True)
    try:
        worker.start()
        finished.wait(LONGEST_RUN)
    finally:
        if not finished.is_set():
            how.terminate = True
        if finished.wait(_STOPPING):
            worker.join()
    if not outcome or how.terminate:
        raise GnOnnxError(f"ONNX Runtime has not finished a run of the model after {LONGEST_RUN:g} seconds")
    result, failure = outcome[0]
    if failure is not None:
        raise failure
    return result
