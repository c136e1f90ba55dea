"""Small pictures of a few nodes: boxes in layers, arrows downward. Text in, SVG out; standard library only."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence

_BOX, _GAP_X, _GAP_Y, _HEIGHT, _MARGIN, _LANE = 160, 16, 26, 30, 8, 20
_LETTERS = 18
"""As many fit into a box in any font; longer texts are squeezed, whatever the font is."""

_LEAST = 0.85
"""A picture is not drawn smaller than this: its letters have to be read. A wide one scrolls."""


@dataclasses.dataclass(frozen=True)
class Box:
    """One node of a picture.

    Attributes:
        key: Unique in the picture.
        text: What is written in it.
        inputs: Keys of boxes with an arrow to this one.
        kind: CSS class: "value", "node" or "fused".
    """

    key: str
    text: str
    inputs: tuple[str, ...] = ()
    kind: str = "node"


def draw(boxes: Sequence[Box], *, label: str) -> str:
    """An SVG element of the boxes, which must be in topological order.

    Args:
        boxes: In an order in which inputs come first.
        label: Read out by screen readers.
    """
    layers: dict[str, int] = {}
    rows: dict[int, list[Box]] = {}
    for box in boxes:
        layers[box.key] = 1 + max((layers[key] for key in box.inputs if key in layers), default=-1)
        rows.setdefault(layers[box.key], []).append(box)
    widest = max((len(row) for row in rows.values()), default=1)
    width = widest * _BOX + (widest - 1) * _GAP_X + 2 * _MARGIN
    if any(layers[box.key] - layers[key] > 1 for box in boxes for key in box.inputs if key in layers):
        width += 2 * _LANE
    height = len(rows) * _HEIGHT + (len(rows) - 1) * _GAP_Y + 2 * _MARGIN
    centre: dict[str, tuple[float, float]] = {}
    right: dict[int, float] = {}
    for layer, row in rows.items():
        left = (width - len(row) * _BOX - (len(row) - 1) * _GAP_X) / 2
        right[layer] = width - left
        for index, box in enumerate(row):
            x = left + index * (_BOX + _GAP_X) + _BOX / 2
            centre[box.key] = (x, _MARGIN + layer * (_HEIGHT + _GAP_Y) + _HEIGHT / 2)
    lines = [
        f'<svg viewBox="0 0 {width} {height}" style="min-width:{_LEAST * width:g}px;max-width:{width}px" role="img"'
        f' aria-label="{escape(label)}">',
        *_arrows(boxes, centre, layers, right),
    ]
    for box in boxes:
        x, y = centre[box.key]
        text = _short(box.text)
        squeezed = f' textLength="{_BOX - 14}" lengthAdjust="spacingAndGlyphs"' if len(text) > _LETTERS else ""
        lines.append(
            f'<rect class="{box.kind}" x="{x - _BOX / 2:g}" y="{y - _HEIGHT / 2:g}"'
            f' width="{_BOX}" height="{_HEIGHT}" rx="6"/>'
            f'<text x="{x:g}" y="{y + 4:g}"{squeezed}>{escape(text)}</text>'
        )
    return "\n".join([*lines, "</svg>"])


def _arrows(
    boxes: Sequence[Box], centre: Mapping[str, tuple[float, float]], layers: Mapping[str, int], right: Mapping[int, float]
) -> list[str]:
    """Paths of all arrows; `right` is where the boxes of each layer end.

    An arrow over several layers runs beside the boxes between, never through them.
    """
    paths = []
    for box in boxes:
        for key in box.inputs:
            if key not in centre:
                continue
            (x1, y1), (x2, y2) = centre[key], centre[box.key]
            start, end = y1 + _HEIGHT / 2, y2 - _HEIGHT / 2 - 4
            between = range(layers[key] + 1, layers[box.key])
            if between:
                lane = max(x1, x2, *(right[layer] + _LANE / 2 for layer in between))
                first, last = start + _GAP_Y, end - _GAP_Y
                curve = (
                    f"M{x1:g} {start:g}C{x1:g} {first - 8:g} {lane:g} {start + 8:g} {lane:g} {first:g}"
                    f"V{last:g}C{lane:g} {end - 8:g} {x2:g} {last + 8:g} {x2:g} {end:g}"
                )
            else:
                middle = (start + end) / 2
                curve = f"M{x1:g} {start:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {end:g}"
            paths.append(f'<path class="arrow" d="{curve}"/><path class="tip" d="M{x2 - 4:g} {end - 2:g}h8l-4 6z"/>')
    return paths


def _short(text: str) -> str:
    return text if len(text) <= 22 else text[:10] + "…" + text[-11:]


def escape(text: str) -> str:
    """Names come from the model: they are text, never markup, and have no control characters."""
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text), quote=True)
