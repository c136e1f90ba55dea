"""Outputs differ: which side is wrong? The judgement of last resort, and the evidence that it takes.

Rounding grows with what lies behind it, and the original may be the inaccurate side. The fused model is right if
  - it equals the original as a whole in float64 (small models), or
  - its sites are equal in float64, every other node is the original's or the outputs agree on ordinary data, and in
    this very run each fused node is as near to float64 as its input allows (where nodes in bodies cannot be looked at:
    the outputs are as near as the inputs allow).
Anything else is a refusal.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from gn_onnx.checking import accurate_native, ort_runner, taps, tolerances, whole_float64
from gn_onnx.checking.comparison import Comparison, compare_outputs
from gn_onnx.checking.site_check import SiteCheck
from gn_onnx.errors import GnOnnxError


def explain(
    original: onnx.ModelProto,
    fused: onnx.ModelProto,
    checks: Sequence[SiteCheck],
    feeds: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    options: ort_runner.Options,
    bad: Comparison,
    deadline: float,
    notes: list[str],
    *,
    agree_elsewhere: bool,
) -> bool:
    """Whether the fused model is right although its outputs differ from the original's.

    Args:
        original: The model before fusing.
        fused: The model after.
        checks: Its sites in float64.
        feeds: The inputs on which the outputs differ.
        expected: The original's outputs.
        options: How the fused model was run.
        bad: The first output that differs.
        deadline: On the monotonic clock.
        notes: What was found is appended.
        agree_elsewhere: All outputs agree on ordinary data, which shows the nodes outside the sites to be right
            where they were changed (converted to another opset).
    """
    accurate = accurate_native.with_accurate_bodies(fused) if options.library is None else None
    run = accurate or fused
    actual = ort_runner.Session(run, options).run(feeds)
    if accurate is not None:
        notes.append(
            f"{bad.data}: ONNX Runtime's own expansion of GroupNormalization is inaccurate ({bad.relative:.1e});"
            " register the library there, or use --target plugin"
        )
        if all(comparison.ok for comparison in compare_outputs(expected, actual)):
            return True
    truth = whole_float64.evaluate(original, feeds)
    if truth is not None:
        pairs = zip(
            compare_outputs(truth, actual, against="float64"),
            compare_outputs(truth, expected, against="float64"),
            strict=True,
        )
        # Nearer to the truth than a bad original proves nothing alone: a wrong model may be that, too.
        sure = all(check.status == "equal" for check in checks)
        if all(new.ok or (sure and new.relative <= 1.5 * old.relative) for new, old in pairs):
            notes.append(f"{bad.data}: the original is the inaccurate one ({bad.relative:.1e} at {bad.name!r})")
            return True
    sites = [check.site for check in checks if check.status == "equal" and check.site is not None]
    if len(sites) != len(checks):
        return False
    main_graph = {name for node in fused.graph.node for name in node.output}
    if not all(site.output in main_graph for site in sites):
        # Inside of bodies and functions nothing can be tapped: as much as the inputs explain, where ordinary ones agree.
        condition = tolerances.input_condition(feeds)
        compared = compare_outputs(expected, actual, coarsest=tolerances.coarsest(original))
        near = all(c.ok or (not c.reason and c.relative <= 2 * c.tolerance * condition) for c in compared)
        if agree_elsewhere and near:
            notes.append(
                f"{bad.data}: outputs differ by {bad.relative:.1e}, every fused node is equal in float64;"
                f" inputs with a mean of {condition:.0f} standard deviations explain it"
            )
            return True
        return False
    if not (agree_elsewhere or taps.unchanged_elsewhere(original, fused, sites)):
        return False
    if time.monotonic() > deadline:
        notes.append("out of time while looking for the cause of a difference")
        return False
    try:
        new = list(taps.site_numerics(run, sites, feeds, options=options, data=bad.data))
        if len(new) != len(sites) or not all(numeric.comparison.ok for numeric in new):
            return False
        old = list(
            taps.site_numerics(
                original, sites, feeds, original=True, data=bad.data,
                options=dataclasses.replace(options, library=None),
            )
        )  # fmt: skip
    except GnOnnxError:
        return False
    culprits = [numeric for numeric in old if not numeric.comparison.ok]
    notes.append(
        f"{bad.data}: outputs differ by {bad.relative:.1e}, every fused node is right to rounding; "
        + (f"the original is inaccurate at {culprits[0].site!r}" if culprits else "so is the original")
    )
    return True
