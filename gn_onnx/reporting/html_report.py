"""One self-contained page about one model: what was fused, what not and why, pictures, parity, times.

No script, no font and no image from elsewhere: the page can be mailed. Imports: standard library, onnx records.
"""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Iterable, Sequence

import onnx

from gn_onnx.benchmarks.bench_models import ModelResult
from gn_onnx.checking.scope import Scope, scopes
from gn_onnx.console import size
from gn_onnx.files import graph_walk
from gn_onnx.group_norm import GroupNorm
from gn_onnx.reporting.report import FusionReport, summary, value_name
from gn_onnx.reporting.svg import Box, draw, escape

_MAX_PICTURES = 60
_MAX_BOXES = 60

_STYLE = """
:root{color-scheme:light dark;--line:#8885;--good:#18794e;--bad:#c62a2f;--fused:#3e63dd}
@media(prefers-color-scheme:dark){:root{--good:#4cc38a;--bad:#ff8589}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:62rem;overflow-wrap:break-word}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.facts{display:flex;flex-wrap:wrap;gap:.75rem}
.facts div{flex:1 1 8rem;border:1px solid var(--line);border-radius:8px;padding:.6rem .8rem}
.facts b{display:block;font-size:1.35rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
td{min-width:6.5rem;overflow-wrap:anywhere}td:empty,th:empty{min-width:0;padding:0}
td.n,td.short{min-width:0;overflow-wrap:normal}td.short{white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.ok{color:var(--good)}.bad{color:var(--bad)}
details{border:1px solid var(--line);border-radius:8px;padding:.5rem .8rem;margin:.5rem 0}
summary{cursor:pointer}
.pair{display:flex;flex-wrap:wrap;gap:1rem;justify-content:space-around;align-items:flex-start}
.pair figure{margin:.5rem 0;flex:1 1 16rem;min-width:0;text-align:center}
svg{width:100%;height:auto}svg rect{fill:none;stroke:currentColor}svg rect.value{stroke:none;fill:#8883}
svg rect.fused{fill:var(--fused);stroke:none}svg rect.fused+text{fill:#fff}
svg text{font:12px system-ui,sans-serif;text-anchor:middle;fill:currentColor}
svg .arrow{fill:none;stroke:currentColor;opacity:.55}svg .tip{fill:currentColor;opacity:.7}
.bar{background:var(--fused);height:.6rem;border-radius:3px;min-width:2px}
"""


def render(report: FusionReport, original: onnx.ModelProto, timings: ModelResult | None) -> str:
    """The page.

    Args:
        report: Of fusing the model, with its verification.
        original: The model before fusing.
        timings: Benchmark of the model, or None to leave that section out.
    """
    name = pathlib.Path(report.model).name
    parts = [
        f"<h1>{escape(name)}</h1>",
        f"<p>{escape(summary(report.fused)) or 'No GroupNorm was fused.'}</p>",
        _facts(report, timings),
        _verification(report),
        _timings(timings) if timings is not None else "",
        _fused(report, original),
        _rejected(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(name)}: GroupNorm</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _facts(report: FusionReport, timings: ModelResult | None) -> str:
    facts = [
        (str(len(report.fused)), "GroupNorm fused"),
        (str(len(report.rejected)), "look-alikes rejected"),
        (f"{report.nodes[0]} → {report.nodes[1]}", "nodes"),
        (size(report.bytes[1]), "file and data"),
    ]
    best = max(filter(None, map(timings.speed_up, timings.timings)), default=None) if timings else None
    if best is not None:
        facts.append((f"{best:.2f} ×", "as fast as before"))
    return '<div class="facts">' + "".join(f"<div><b>{escape(v)}</b>{escape(k)}</div>" for v, k in facts) + "</div>"


def _verification(report: FusionReport) -> str:
    checked = report.verification
    if checked is None:
        return "<h2>Parity</h2><p>Not verified.</p>"
    verdict = '<p class="ok">Equal to the original.</p>'
    if not checked.ok:
        verdict = f'<p class="bad">{escape(checked.reason)}</p>'
    rows = [
        [o.name, o.data, f"{o.max_abs:.1e}", f"{o.relative:.1e}", f"{o.tolerance:.1e}", _mark(o.ok)] for o in checked.outputs
    ]
    outputs = _table(["output", "data", "max |Δ|", "relative", "tolerance", ""], rows, numbers={2, 3, 4}, short={5})
    notes = "".join(f"<p>{escape(note)}</p>" for note in checked.notes)
    sites = [[s.output, s.op_type, f"{s.error:.1e}", s.status, s.reason] for s in checked.sites]
    table = _table(["site", "operator", "max |Δ|", "", ""], sites, numbers={2}, short={1, 3})
    return (
        f"<h2>Parity</h2>{verdict}{outputs}{notes}"
        f"<details><summary>Each site in float64: {len(sites)}</summary>{table}</details>"
    )


def _timings(timings: ModelResult) -> str:
    slowest = max(timing.median for timing in timings.timings.values())
    rows = []
    for label, timing in timings.timings.items():
        ratio = timings.speed_up(label)
        bar = f'<div class="bar" style="width:{100 * timing.median / slowest:.1f}%"></div>'
        share = timings.shares.get(label)
        rows.append(
            f"<tr><td>{escape(label)}{bar}</td>"
            f'<td class="n">{timing.median / 1e3:.3f} ms</td>'
            f'<td class="n">{timing.percentile(10) / 1e3:.3f} – {timing.percentile(90) / 1e3:.3f}</td>'
            f'<td class="n">{f"{share:.1%}" if share is not None else ""}</td>'
            f'<td class="n">{f"{ratio:.2f} ×" if ratio is not None else "–"}</td></tr>'
        )
    numbers = "".join(f'<th class="n">{title}</th>' for title in ("median", "p10 – p90", "in GroupNorm", "speed"))
    head = f"<tr><th>variant</th>{numbers}</tr>"
    refused = "".join(f"<p>{escape(label)}: {escape(reason)}</p>" for label, reason in timings.refused.items())
    return f'<h2>Time</h2><div class="wide"><table>{head}{"".join(rows)}</table></div>{refused}'


def _fused(report: FusionReport, original: onnx.ModelProto) -> str:
    if not report.fused:
        return ""
    scope = scopes(original, {})[()]
    items = []
    for index, site in enumerate(report.fused):
        picture = _pictures(site, scope) if index < _MAX_PICTURES else ""
        title = f"<b>{escape(value_name(site.output))}</b> {escape(str(site.op_type))}, {site.num_groups} groups"
        details = _table(
            ["", ""],
            [
                ["input", value_name(site.x)], ["channels", str(site.num_channels or "not known")],
                ["epsilon", f"{site.epsilon:g}"], ["found at", site.core],
                ["nodes", ", ".join(site.node_names)],
            ],
            short={0},
        )  # fmt: skip
        items.append(f"<details><summary>{title}</summary>{picture}{details}</details>")
    return f"<h2>Fused</h2>{''.join(items)}"


def _pictures(site: GroupNorm, scope: Scope) -> str:
    before = boxes_between(scope, value_name(site.x), value_name(site.output))
    if not before:
        return ""
    after = [
        Box("x", value_name(site.x), kind="value"),
        Box("gn", site.op_type.replace("GroupNormalization", "GroupNorm"), ("x",), "fused"),
        Box("y", value_name(site.output), ("gn",), "value"),
    ]
    name = value_name(site.output)
    return (
        f'<div class="pair">{_figure(draw(before, label=f"{name} before fusing"), "before")}'
        f"{_figure(draw(after, label=f'{name} after fusing'), 'after')}</div>"
    )


def _figure(picture: str, caption: str) -> str:
    return f'<figure><div class="wide">{picture}</div><figcaption>{caption}</figcaption></figure>'


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


def _rejected(report: FusionReport) -> str:
    if not report.rejected:
        return ""
    rows = [[r.node or r.value, r.op_type, r.reason, r.reached] for r in report.rejected]
    return f"<h2>Rejected</h2>{_table(['node', 'operator', 'why', 'reached'], rows)}"


def _table(
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


def _mark(ok: bool) -> str:
    return "✓ ok" if ok else "✗ too far"


def _cell(text: str) -> str:
    if text.startswith(("✓", "✗")):
        return f'<span class="{"ok" if text.startswith("✓") else "bad"}">{escape(text)}</span>'
    return escape(text)
