"""One self-contained page about one model: what was fused, what not and why, pictures, parity, times.

No script, no font and no image from elsewhere: the page can be mailed. Imports: standard library, onnx records.
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Mapping

import onnx

import gn_onnx
from gn_onnx.benchmarks import bench_models
from gn_onnx.benchmarks.bench_models import ModelResult
from gn_onnx.checking.end_to_end import WITH_LIBRARY, WITHOUT_LIBRARY
from gn_onnx.checking.scope import scopes
from gn_onnx.checking.site_check import SiteCheck
from gn_onnx.console import size
from gn_onnx.group_norm import GroupNorm
from gn_onnx.reporting.page_parts import count, pictures, table, tiles
from gn_onnx.reporting.page_style import STYLE
from gn_onnx.reporting.report import FusionReport, summary, value_name
from gn_onnx.reporting.svg import escape

_MAX_PICTURES = 60

_VARIANTS = {
    bench_models.ORIGINAL: "original",
    bench_models.FUSED: "fused, plain ONNX Runtime",
    bench_models.FUSED_LIBRARY: "fused, with the library",
    bench_models.NATIVE: "ONNX GroupNormalization, plain ONNX Runtime",
    bench_models.NATIVE_LIBRARY: "ONNX GroupNormalization, with the library",
}


def render(
    report: FusionReport, original: onnx.ModelProto, timings: ModelResult | None, machine: Mapping[str, object] | None = None
) -> str:
    """The page.

    Args:
        report: Of fusing the model, with its verification.
        original: The model before fusing.
        timings: Benchmark of the model, or None to leave that section out.
        machine: What the times were measured on (`bench.machine`).
    """
    name = pathlib.Path(report.model).name
    parts = [
        f'<p class="above">GroupNorm report</p><h1>{escape(name)}</h1>',
        _lead(report),
        _facts(report, timings),
        _sites(report, original),
        _timings(timings, report.target, machine or {}) if timings is not None else "",
        _parity(report),
        _rejected(report),
        f"<footer>gn_onnx {escape(gn_onnx.__version__)}. The model itself was not changed.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(name)}: GroupNorm</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _lead(report: FusionReport) -> str:
    checked = report.verification
    if not report.fused:
        had = f" {count(report.already, 'GroupNorm')} in it: fused already." if report.already else ""
        return f'<p class="lead">No GroupNorm was fused.{had}</p>'
    lead = (
        f'<p class="lead">{count(len(report.fused), "GroupNorm")}, each one node now: {escape(summary(report.fused))}.</p>'
    )
    if checked is None:
        return f'{lead}<p class="verdict">not verified</p>'
    if not checked.ok:
        return f'{lead}<p class="verdict bad">✗ Not equal to the original.</p><p class="bad">{escape(checked.reason)}</p>'
    return f'{lead}<p class="verdict ok">✓ Equal to the original.</p>'


def _facts(report: FusionReport, timings: ModelResult | None) -> str:
    before, after = report.nodes
    facts = [(str(len(report.fused)), "GroupNorm fused" if len(report.fused) == 1 else "GroupNorms fused")]
    ours = _ours(report.target)
    speed_up = timings.speed_up(ours) if timings is not None else None
    if timings is not None and speed_up is not None:
        facts.append((f"{speed_up:.2f} ×", "as fast as before, with the library"))
        old, new = timings.shares.get(bench_models.ORIGINAL), timings.shares.get(ours)
        if old is not None and new is not None:
            facts.append((f"{100 * old:.2g} → {100 * new:.2g}%", "of the time is GroupNorm"))
    facts.append((f"{before} → {after}" if before != after else str(before), "nodes"))
    facts.append(
        (str(len(report.rejected)), "look-alike left as it is" if len(report.rejected) == 1 else "look-alikes left")
    )
    facts.append((size(report.bytes[1]), "file and data"))
    return tiles(facts)


def _ours(target: str) -> str:
    return bench_models.FUSED_LIBRARY if target == "plugin" else bench_models.NATIVE_LIBRARY


def _timings(timings: ModelResult, target: str, machine: Mapping[str, object]) -> str:
    slowest = max(timing.median for timing in timings.timings.values())
    rows = []
    for label, timing in timings.timings.items():
        share = timings.shares.get(label, 0.0)
        ratio = timings.speed_up(label)
        facts = f"{_ms(timing.percentile(10))} to {_ms(timing.percentile(90))} ms"
        if label in timings.shares:
            facts += f"; {share:.1%} in GroupNorm"
        if ratio is not None and label != bench_models.ORIGINAL:
            facts += f"; {ratio:.2f} × as fast, in {timings.faster_runs(label)} of {len(timing.microseconds)} rounds faster"
        rows.append(
            f'<div class="time{" ours" if label == _ours(target) else ""}"><div class="words">'
            f"<span>{escape(_VARIANTS.get(label, label))}</span><b>{_ms(timing.median)} ms</b></div>"
            f'<div class="bar" style="width:{100 * timing.median / slowest:.1f}%">'
            f'<i class="gn" style="width:{100 * share:.1f}%"></i><i style="flex:1"></i></div>'
            f'<div class="quiet">{facts}</div></div>'
        )
    refused = "".join(
        f'<p class="quiet">{escape(_VARIANTS.get(label, label))}: {escape(reason)}</p>'
        for label, reason in timings.refused.items()
    )
    runtime = machine.get("onnxruntime") or machine.get("onnxruntime-gpu")
    where = f" {machine['processor']}, {machine['threads']} threads, ONNX Runtime {runtime}." if runtime else ""
    return (
        '<h2>Time per run</h2><p class="quiet">Median of interleaved runs; below each bar, where 80% of the runs lie.'
        f"{escape(where)}</p>"
        f'{"".join(rows)}<p class="quiet key"><i></i>in GroupNorm nodes<i></i>all other nodes</p>{refused}'
    )


def _ms(microseconds: float) -> str:
    """Three digits, never with an exponent."""
    milliseconds = microseconds / 1e3
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _parity(report: FusionReport) -> str:
    checked = report.verification
    if checked is None or not checked.outputs:
        notes = "".join(f"<p>{escape(note)}</p>" for note in checked.notes) if checked is not None else ""
        return f"<h2>Parity</h2>{notes}" if notes else ""
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    bounds: dict[str, tuple[float, bool]] = {}
    for output in checked.outputs:
        way = WITH_LIBRARY if output.data.endswith(WITH_LIBRARY) else WITHOUT_LIBRARY
        before = worst.get((output.name, way), (-1.0, ""))
        worst[output.name, way] = max(before, (output.relative, f"{output.relative:.1e}"))
        bound, good = bounds.get(output.name, (0.0, True))
        bounds[output.name] = (max(bound, output.tolerance), good and output.ok)
    rows = [
        [
            f"{'✓' if good else '✗'} {name}",
            *(worst.get((name, way), (0.0, "–"))[1] for way in (WITHOUT_LIBRARY, WITH_LIBRARY)),
            f"{bound:.1e}",
        ]
        for name, (bound, good) in bounds.items()
    ]
    full = [
        [o.name, o.data, f"{o.max_abs:.1e}", f"{o.relative:.1e}", f"{o.tolerance:.1e}", _mark(o.ok, explained=o.explained)]
        for o in checked.outputs
    ]
    notes = "".join(f"<p>{escape(note)}</p>" for note in checked.notes)
    return (
        '<h2>Parity</h2><p class="quiet">The largest difference from the original on ordinary, low-variance and large-mean'
        " data, relative to the output's largest value.</p>"
        f"{table(['output', 'plain', 'library', 'allowed'], rows, numbers={1, 2, 3})}{notes}"
        f"<details><summary>Each kind of data <span>({len(full)} comparisons)</span></summary>"
        f"{table(['output', 'data', 'max |Δ|', 'relative', 'allowed', ''], full, numbers={2, 3, 4}, short={5})}</details>"
    )


def _sites(report: FusionReport, original: onnx.ModelProto) -> str:
    """The first site with its picture in full view, then all sites by kind."""
    if not report.fused:
        return ""
    scope = scopes(original, {})[()]
    checks = {check.output: check for check in report.verification.sites} if report.verification else {}
    drawn = {id(site): pictures(site, scope) for site in report.fused[:_MAX_PICTURES]}
    shown = next(filter(None, drawn.values()), "")
    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for site in report.fused:
        kind = f"{site.op_type}, {site.num_groups} groups"
        kinds[kind].append(_site(site, drawn.get(id(site), ""), checks.get(value_name(site.output))))
    groups = "".join(
        f"<details><summary><b>{len(items)} ×</b> {escape(kind)}</summary>{''.join(items)}</details>"
        for kind, items in kinds.items()
    )
    hero = f'<h2>One of them, before and after</h2><div class="hero">{shown}</div>' if shown else ""
    equal = sum(check.status == "equal" for check in checks.values())
    proven = f"{equal} of {len(checks)} compute the same as the original's nodes in float64. " if checks else ""
    return f'{hero}<h2>Every site</h2><p class="quiet">{proven}Open one for its graph, before and after.</p>{groups}'


def _site(site: GroupNorm, picture: str, check: SiteCheck | None) -> str:
    facts = [
        ["input", value_name(site.x)], ["channels", str(site.num_channels or "not known")],
        ["epsilon", f"{site.epsilon:g}"], ["found at", site.core], ["nodes", ", ".join(site.node_names)],
    ]  # fmt: skip
    verdict = ""
    if check is not None:
        mark = {"equal": "✓ equal", "different": "✗ different"}.get(check.status, check.status)
        found = f"{mark}: max |Δ| {check.error:.1e} of {check.tolerance:.1e}" if check.error == check.error else mark
        facts.insert(0, ["in float64", f"{found} {check.reason}".strip()])
        kind = {"equal": "ok", "different": "bad"}.get(check.status, "quiet")
        verdict = f' <span class="{kind}">{escape(mark)}</span>'
    name = escape(value_name(site.output))
    return f"<details><summary>{name}{verdict}</summary>{picture}{table(['', ''], facts, short={0})}</details>"


def _rejected(report: FusionReport) -> str:
    """Look-alikes by reason: a network has the same one in every block."""
    if not report.rejected:
        return ""
    reasons: dict[str, list[str]] = collections.defaultdict(list)
    for r in report.rejected:
        reached = f"<br><code>{escape(r.reached)}</code>" if r.reached else ""
        reasons[r.reason].append(f"<li>{escape(r.op_type)} {escape(r.node or r.value)}{reached}</li>")
    items = "".join(
        f"<details><summary><b>{len(places)} ×</b> {escape(reason)}</summary><ul>{''.join(places)}</ul></details>"
        for reason, places in reasons.items()
    )
    return f'<h2>Look-alikes left as they are</h2><p class="quiet">Not GroupNorms; why, and where.</p>{items}'


def _mark(ok: bool, *, explained: bool = False) -> str:
    return "✓ explained" if explained else "✓ ok" if ok else "✗ too far"
