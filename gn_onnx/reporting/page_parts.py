"""Pieces that the report's sections are made of: tables, tiles, and a GroupNorm's graph before and after."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from gn_onnx.checking.scope import Scope
from gn_onnx.files import graph_walk
from gn_onnx.group_norm import GroupNorm
from gn_onnx.reporting.report import value_name
from gn_onnx.reporting.svg import Box, draw, escape

_MAX_BOXES = 60


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """Numbers in large type with what they count."""
    return '<div class="facts">' + "".join(f"<div><b>{escape(v)}</b>{escape(k)}</div>" for v, k in facts) + "</div>"


def count(number: int, what: str) -> str:
    """`1 site`, `2 sites`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Collection[int] = (),
    short: Collection[int] = (),
) -> str:
    """Columns of numbers stand to the right, those of a word or two are as wide as it; all others are text that breaks."""

    def row(cells: Sequence[str], tag: str) -> str:
        classes = dict.fromkeys(short, ' class="short"') | dict.fromkeys(numbers, ' class="n"')
        kinds = [classes.get(index, "") for index in range(len(cells))]
        marked = (f"<{tag}{kind}>{_cell(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(marked)}</tr>"

    header = row(head, "th") if any(head) else ""
    return f'<div class="wide"><table>{header}{"".join(row(cells, "td") for cells in rows)}</table></div>'


def _cell(text: str) -> str:
    if text.startswith(("✓", "✗")):
        return f'<span class="{"ok" if text.startswith("✓") else "bad"}">{escape(text)}</span>'
    return escape(text)


def pictures(site: GroupNorm, scope: Scope) -> str:
    """The site's graph before and after; empty where it has too many nodes to be drawn."""
    before = boxes_between(scope, value_name(site.x), value_name(site.output))
    if not before:
        return ""
    after = [
        Box("x", value_name(site.x), kind="value"),
        Box("gn", site.op_type.replace("GroupNormalization", "GroupNorm"), ("x",), "fused"),
        Box("y", value_name(site.output), ("gn",), "value"),
    ]
    name = value_name(site.output)
    left = _figure(draw(before, label=f"{name} before fusing"), f"before: {count(len(before) - 2, 'node')}")
    right = _figure(draw(after, label=f"{name} after fusing"), "after: 1 node")
    return f'<div class="pair">{left}{right}</div>'


def _figure(picture: str, caption: str) -> str:
    return f'<figure><figcaption>{caption}</figcaption><div class="wide">{picture}</div></figure>'


def boxes_between(scope: Scope, x: str, output: str) -> list[Box]:
    """The nodes that lead from x to the output, with both ends as boxes; empty where there are too many."""
    memo: dict[str, bool] = {}
    needed: set[int] = set()
    pending = [output]
    while pending:
        name = pending.pop()
        index = scope.producer.get(name)
        if name == x or index is None or index in needed or not scope.depends(name, x, memo):
            continue
        needed.add(index)
        if len(needed) > _MAX_BOXES:
            return []
        pending.extend(graph_walk.uses(scope.nodes[index]))
    boxes = [Box(x, x, kind="value")]
    owner = {x: x}
    for index in sorted(needed):
        node = scope.nodes[index]
        key = f"node {index}"
        boxes.append(Box(key, node.op_type, tuple(dict.fromkeys(owner[i] for i in node.input if i in owner))))
        owner.update(dict.fromkeys(node.output, key))
    if output not in owner or output == x:
        return []
    return [*boxes, Box("output", output, (owner[output],), "value")]
