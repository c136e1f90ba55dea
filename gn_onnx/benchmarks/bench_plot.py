"""The benchmark as a picture: one group of bars per model or case. matplotlib is imported here only."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

from gn_onnx.errors import GnOnnxError
from gn_onnx.files import atomic_file


def plot(groups: Mapping[str, Mapping[str, float]], path: pathlib.Path, *, title: str, order: Sequence[str]) -> None:
    """Horizontal bars of milliseconds, shorter is better.

    Args:
        groups: Milliseconds by variant, by model or case.
        path: .png or .svg.
        title: Above the bars.
        order: Variants, first one on top.

    Raises:
        GnOnnxError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise GnOnnxError("--plot needs matplotlib: pip install matplotlib") from error
    present = [label for label in order if any(label in group for group in groups.values())]
    height = 0.8 / max(len(present), 1)
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.25 * len(groups) * (len(present) + 1)), layout="constrained")
    for index, label in enumerate(present):
        rows = [(row, group[label]) for row, group in enumerate(groups.values()) if label in group]
        places = [row + (index - (len(present) - 1) / 2) * height for row, _ in rows]
        bars = axes.barh(places, [value for _, value in rows], height * 0.9, label=label)
        axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds, shorter is better")
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    axes.legend(frameon=False, fontsize=9)
    try:
        with atomic_file.replacing(path) as file:
            # Without a date the same numbers give the same file.
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(file, format=path.suffix[1:], dpi=150, metadata=metadata)
    except ValueError as error:
        raise GnOnnxError(f"{path}: cannot write the plot: {error}") from error
    finally:
        pyplot.close(figure)
