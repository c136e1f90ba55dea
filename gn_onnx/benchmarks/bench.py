"""Measure: interleaved runs, medians with their spread, and the facts about the machine that a number needs."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping

import numpy as np

RUNS = 50
_MIN_RUNS = 7
_WARM_UP = 3


@dataclasses.dataclass(frozen=True)
class Timing:
    """Times of one variant.

    Attributes:
        label: Of the variant.
        microseconds: Of each timed run, in order.
    """

    label: str
    microseconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.microseconds, percent))

    @property
    def median(self) -> float:
        return self.percentile(50)

    def wins(self, over: Timing) -> int:
        """In how many rounds this variant was the faster one."""
        return sum(mine < theirs for mine, theirs in zip(self.microseconds, over.microseconds, strict=True))

    def ratio(self, over: Timing) -> float:
        """How many times as long `over` took in the same round, in the median.

        A shared machine changes its speed from round to round, for both.
        """
        return float(np.median(np.divide(over.microseconds, self.microseconds)))

    def to_json(self) -> dict[str, object]:
        return {
            "label": self.label,
            "median_us": round(self.median, 2),
            "p10_us": round(self.percentile(10), 2),
            "p90_us": round(self.percentile(90), 2),
            "runs": len(self.microseconds),
        }


def interleave(
    variants: Mapping[str, Callable[[], object]],
    *,
    runs: int = RUNS,
    seconds: float = 20.0,
    turn: int = 1,
    warm_up: int = 0,
    pause: float = 0.0,
    progress: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Time variants in turn, so that whatever else the machine does hits all of them alike.

    Args:
        variants: What to time, by label.
        runs: Timed runs of each.
        seconds: Stop earlier when the whole takes longer, but never below a handful of runs.
        turn: Timed runs of a variant before it is the next one's turn.
        warm_up: Runs before those that are not timed: the variant's threads wake up and its data are in the cache.
        pause: Seconds before each turn, in which the threads of the variant before stop to wait for work.
        progress: Called after each round.
    """
    start = time.perf_counter()
    for function in variants.values():
        for _ in range(_WARM_UP):
            function()
    times: dict[str, list[float]] = {label: [] for label in variants}
    for done in range(turn, runs + turn, turn):
        for label, function in variants.items():
            time.sleep(pause)
            for _ in range(warm_up):
                function()
            for _ in range(turn):
                before = time.perf_counter_ns()
                function()
                times[label].append((time.perf_counter_ns() - before) / 1e3)
        if progress is not None:
            progress()
        if done >= _MIN_RUNS and time.perf_counter() - start > seconds:
            break
    return {label: Timing(label, tuple(values)) for label, values in times.items()}


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy at a multiple of 64 bytes, where runtimes place tensors; numpy itself promises 16."""
    bytes_ = np.empty(array.nbytes + 64, np.uint8)
    begin = -bytes_.ctypes.data % 64
    copy: np.ndarray = bytes_[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def machine() -> dict[str, object]:
    """Processor, threads, memory bandwidth's stand-in and versions: what makes a number comparable."""
    import importlib.metadata

    facts: dict[str, object] = {
        "processor": _processor(),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    for package in ("onnxruntime", "onnxruntime-gpu", "torch", "openvino", "numpy"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def _processor() -> str:
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class ParallelCopy:
    """The floor: copy `elements` float32 values in the fastest way that there is.

    That is numpy with one thread or with all (it releases the interpreter's lock), or PyTorch where it is installed,
    whose threads are quicker to wake.
    """

    def __init__(self, elements: int) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._source = aligned(np.ones(elements, np.float32))
        self._target = aligned(np.zeros(elements, np.float32))
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        bounds = [elements * index // threads for index in range(threads + 1)]
        self._parts = [slice(*pair) for pair in itertools.pairwise(bounds)]
        self._pool = ThreadPoolExecutor(threads)
        ways = {"one": self._alone, "all": self._together} | self._of_torch()
        trial = interleave(ways, runs=4 * _MIN_RUNS, turn=4, warm_up=1, pause=0.002)
        self._copy = ways[min(ways, key=lambda way: trial[way].median)]

    def __call__(self) -> None:
        self._copy()

    def _alone(self) -> None:
        np.copyto(self._target, self._source)

    def _together(self) -> None:
        # The caller takes the first part itself: waking a thread costs more than a small copy.
        others = [self._pool.submit(np.copyto, self._target[p], self._source[p]) for p in self._parts[1:]]
        np.copyto(self._target[self._parts[0]], self._source[self._parts[0]])
        for other in others:
            other.result()

    def _of_torch(self) -> dict[str, Callable[[], object]]:
        try:
            import torch
        except ImportError:
            return {}
        source, target = torch.from_numpy(self._source), torch.from_numpy(self._target)
        return {"torch": lambda: target.copy_(source)}
