"""Original and fused model in ONNX Runtime, every output, every kind of data, without and with the library."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from gn_onnx.checking import accurate_native, arbitration, inputs, ort_runner, pad_fusion, tolerances
from gn_onnx.checking.comparison import Comparison, compare_outputs
from gn_onnx.checking.site_check import SiteCheck
from gn_onnx.errors import GnOnnxError
from gn_onnx.files import external_data

MAX_BYTES = 1 << 30
"""Models with more weights than this are checked site by site only: two sessions would hold them three times."""

_SECONDS_TO_EXPLAIN = 60.0
"""Left for each difference whatever was used up before: on a slow machine a right model would be refused."""

WITHOUT_LIBRARY = "without the library"
WITH_LIBRARY = "with the library"


@dataclasses.dataclass
class Findings:
    """What a verification has found so far."""

    outputs: list[Comparison] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    refusals: list[str] = dataclasses.field(default_factory=list)


def _run(
    fused: onnx.ModelProto, how: ort_runner.Options, feeds: Mapping[str, dict[str, np.ndarray]], notes: list[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Outputs by kind of data. Without the library, ONNX Runtime lacks GroupNormalization for some types."""
    try:
        session = ort_runner.Session(fused, how)
    except GnOnnxError as error:
        accurate = accurate_native.with_accurate_bodies(fused) if how.library is None else None
        if accurate is None:
            raise
        session = ort_runner.Session(accurate, how)
        notes.append(f"without the library this ONNX Runtime cannot run the model: {error}")
    return {kind: session.run(feed) for kind, feed in feeds.items()}


def size_in_bytes(proto: onnx.ModelProto) -> int:
    return int(proto.ByteSize()) + external_data.size_in_bytes(proto)


def compare_end_to_end(
    original: onnx.ModelProto,
    fused: onnx.ModelProto,
    sites: Sequence[SiteCheck],
    folder: pathlib.Path | None,
    shapes: Mapping[str, Sequence[int]] | None,
    deadline: float,
    found: Findings,
) -> None:
    """Run both models, the fused one in every way that a user may, and compare every output; findings are added."""
    if not ort_runner.is_installed():
        found.notes.append("ONNX Runtime is not installed: outputs not compared, sites only")
        return
    size = size_in_bytes(original)
    if size > MAX_BYTES:
        found.notes.append(f"{size / 1e9:.1f} GB of weights: outputs not compared, sites only")
        return
    options = ort_runner.Options(data_folder=folder)
    try:
        baseline = ort_runner.Session(original, options)
        feeds = {kind: inputs.make_inputs(original, kind, shapes=shapes) for kind in inputs.KINDS}
        expected = {kind: baseline.run(feeds[kind]) for kind in inputs.KINDS}
        del baseline
    except GnOnnxError as error:
        found.notes.append(f"outputs not compared, the original does not run: {error}")
        return
    found.notes += pad_fusion.notes(original, feeds[inputs.KINDS[0]], expected[inputs.KINDS[0]], options)
    library = ort_runner.find_library()
    for way, path in ((WITHOUT_LIBRARY, None), (WITH_LIBRARY, library)):
        if way == WITH_LIBRARY and path is None:
            found.notes.append("the operator library is not built: checked by the function bodies")
            continue
        how = dataclasses.replace(options, library=path)
        try:
            actual = _run(fused, how, feeds, found.notes)
        except GnOnnxError as error:
            found.refusals.append(f"{way}: {error}")
            return
        agree = False
        for kind in inputs.KINDS:
            compared = compare_outputs(
                expected[kind], actual[kind], data=f"{kind}, {way}", coarsest=tolerances.coarsest(original)
            )
            agree = agree or (kind == inputs.KINDS[0] and all(comparison.ok for comparison in compared))
            bad = [comparison for comparison in compared if not comparison.ok]
            explained = bool(bad) and arbitration.explain(
                original, fused, sites, feeds[kind], expected[kind], how, bad[0],
                max(deadline, time.monotonic() + _SECONDS_TO_EXPLAIN), found.notes,
                agree_elsewhere=agree,
            )  # fmt: skip
            found.outputs += [dataclasses.replace(c, explained=explained and not c.ok) for c in compared]
            if bad and not explained:
                worst = max(bad, key=lambda comparison: comparison.relative)
                found.refusals.append(
                    f"output {worst.name!r} differs by {worst.relative:.1e} of its largest value"
                    f" (allowed {worst.tolerance:.1e}) on {worst.data}{': ' + worst.reason if worst.reason else ''}"
                )
                return
