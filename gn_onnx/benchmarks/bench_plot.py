"""The benchmark as a picture: one small plot of bars per model or case. matplotlib is imported here only."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gn_onnx.benchmarks.bench import Timing
from gn_onnx.errors import GnOnnxError
from gn_onnx.files import atomic_file

_BASELINE, _PLAIN, _OURS, _INK = "#81858f", "#c5c8d0", ("#3e63dd", "#8da4ef"), "#1c2024"
_TALL = 6
"""So many groups stand in one column; more take two."""


def plot(
    groups: Sequence[tuple[str, Mapping[str, Timing]]],
    path: pathlib.Path,
    *,
    title: str,
    order: Sequence[str],
    ours: Collection[str],
    baseline: str,
) -> None:
    """Horizontal bars, shorter is better; each group to its own scale: models take from one to hundreds of milliseconds.

    Args:
        groups: Name and timings by variant, of every model or case.
        path: .png or .svg.
        title: Above the bars.
        order: Variants, first one on top.
        ours: Variants in colour, each with how many times faster than the baseline it is.
        baseline: One of the variants.

    Raises:
        GnOnnxError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise GnOnnxError("--plot needs matplotlib: pip install matplotlib") from error
    labels = [label for label in order if any(label in timings for _, timings in groups)]
    columns = 1 if len(groups) <= _TALL else 2
    rows = -(-len(groups) // columns)
    size = (7.5 * columns, 1 + rows * (0.55 + 0.27 * len(labels)))
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(title, x=0.005, ha="left", fontsize=12, fontweight="bold", color=_INK)
    words = f"Median with 10th to 90th percentile, shorter is better, each to its own scale; ×: times as fast as {baseline}."
    figure.supxlabel(words, x=0.005, ha="left", fontsize=8.5, color=_INK)
    for place, group in itertools.zip_longest(axes.flat, groups):
        place.set_axis_off()
        if group is not None:
            name, timings = group
            _bars(place, name, timings, labels, ours, baseline)
    try:
        with atomic_file.replacing(path) as file:
            # Without a date the same numbers give the same file.
            metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
            figure.savefig(file, format=path.suffix[1:].lower(), dpi=150, metadata=metadata)
    except ValueError as error:
        raise GnOnnxError(f"{path}: cannot write the plot: {error}") from error
    finally:
        pyplot.close(figure)


def _bars(
    axes: Any, name: str, timings: Mapping[str, Timing], labels: Sequence[str], ours: Collection[str], baseline: str
) -> None:
    """One group; the name of a variant stands in front of its bar, the time behind it."""
    present = [label for label in labels if label in timings]
    longest = max((timing.percentile(90) for timing in timings.values()), default=1.0)
    cap = 1.5 * max((timing.median for timing in timings.values()), default=1.0)
    # One disturbed run must not make all bars short: a longer whisker is cut at the edge.
    right = min(longest, cap)
    coloured = itertools.cycle(_OURS)
    for row, label in enumerate(present):
        timing, is_ours = timings[label], label in ours
        low, high = timing.percentile(10), min(timing.percentile(90), right)
        colour = next(coloured) if is_ours else _BASELINE if label == baseline else _PLAIN
        axes.barh(row, timing.median, 0.78, color=colour)
        axes.plot((low, high), (row, row), color=_INK, linewidth=1, alpha=0.6, solid_capstyle="butt")
        words = f"{timing.median / 1e3:.3g} ms" if timing.median >= 1e3 else f"{timing.median:.3g} µs"
        if baseline in timings and label != baseline:
            words += f"   {timing.ratio(timings[baseline]):.2f} ×"
        weight = "bold" if is_ours else "normal"
        axes.text(max(timing.median, high) + 0.015 * right, row, words, va="center", fontsize=9, fontweight=weight)
        axes.text(-0.015 * right, row, label, va="center", ha="right", fontsize=9, fontweight=weight)
    axes.set_xlim(-0.62 * right, 1.4 * right)
    axes.set_ylim(len(present) - 0.4, -0.6)
    axes.set_title(name, loc="left", fontsize=10, fontweight="bold", color=_INK)
