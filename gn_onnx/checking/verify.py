"""Is the fused model right? Asked before a file is written, answered in three steps.

1. Every site, in float64: the original's nodes between x and y compute what the fused node computes
   (`site_check`). A difference here is an error of fusing, whatever the outputs look like: refused.
2. End to end in ONNX Runtime, without and with the operator library: every output, on three kinds of data.
3. Where outputs differ by more than rounding explains, somebody is inaccurate, and it may be the original:
   E[x^2] - E[x]^2 in float32 is off by 0.5 at a mean of 600. The fused model is right if all its sites are
   equal in float64, every other node is the original's, and in the run itself each fused node is as near to
   float64 as its input allows. Small models are evaluated in float64 as a whole instead. If neither can be
   shown, the model is refused.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from gn_onnx.checking import inputs, ort_runner, taps, tolerances, whole_float64
from gn_onnx.checking.comparison import Comparison, compare_outputs
from gn_onnx.checking.end_to_end import MAX_BYTES, Findings, compare_end_to_end, size_in_bytes
from gn_onnx.checking.site_check import SiteCheck, check_sites
from gn_onnx.errors import GnOnnxError
from gn_onnx.files import model_checks


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was checked and found.

    Attributes:
        sites: One record per fused node.
        outputs: One record per output, kind of data and way to run the fused model.
        ok: Whether the fused model may be written.
        reason: Why not.
        notes: Sentences for people: what could not be checked, and where the original is the inaccurate one.
        seconds: Time that it took.
    """

    sites: tuple[SiteCheck, ...]
    outputs: tuple[Comparison, ...] = ()
    ok: bool = True
    reason: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def worst(self) -> Comparison | None:
        """The output nearest to its tolerance, or furthest beyond."""
        return max(self.outputs, key=lambda c: (bool(c.reason), c.relative / max(c.tolerance, 1e-300)), default=None)

    def to_json(self) -> dict[str, object]:
        return {
            "ok": self.ok,
            "reason": self.reason,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
            "sites": [site.to_json() for site in self.sites],
            "outputs": [output.to_json() for output in self.outputs],
        }


def verify(
    original: onnx.ModelProto,
    fused: onnx.ModelProto,
    *,
    folder: pathlib.Path | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seconds: float = 60.0,
) -> Verification:
    """Check a fused model against the original.

    Args:
        original: The model before fusing.
        fused: The model after.
        folder: Folder of the external data of both.
        shapes: Shapes for graph inputs, where the generated ones do not suit the model.
        seconds: About how long it may take; what is left out then is said in the notes.

    Returns:
        What was found; `.ok` is False only where the fused model is wrong or where a difference could not be
        explained. A model that ONNX Runtime cannot run is checked by its sites alone.

    Raises:
        GnOnnxError: No inputs can be made for the model.
    """
    start = time.monotonic()
    concrete = inputs.input_shapes(original, shapes)
    runs = ort_runner.is_installed() and size_in_bytes(original) <= MAX_BYTES
    measured = {}
    if runs:
        feeds = inputs.make_inputs(original, "ordinary", shapes=shapes)
        measured = taps.measured_shapes(original, feeds, ort_runner.Options(data_folder=folder))
    sites = tuple(
        check_sites(original, fused, input_shapes=concrete, folder=folder, known_shapes=measured, seconds=seconds / 2)
    )
    found = Findings()
    for site in sites:
        if site.status == "different":
            found.refusals.append(
                f"{site.name}: {site.op_type} does not compute {site.output!r}: in float64 off by"
                f" {site.error:.1e} (allowed {site.tolerance:.1e}) {site.reason}"
            )
    unchecked = [site for site in sites if site.status == "not checked"]
    if unchecked:
        found.notes.append(
            f"{len(unchecked)} of {len(sites)} sites not checked one by one,"
            f" first: {unchecked[0].name}: {unchecked[0].reason}"
        )
    try:
        model_checks.check(fused)
    except GnOnnxError as error:
        found.refusals.append(str(error))
    if not found.refusals:
        compare_end_to_end(original, fused, sites, folder, shapes, start + seconds, found)
    if not found.outputs and not found.refusals:
        _judge_by_sites_alone(original, fused, sites, shapes, found)
    return Verification(
        sites=sites,
        outputs=tuple(found.outputs),
        ok=not found.refusals,
        reason=found.refusals[0] if found.refusals else "",
        notes=tuple(found.notes),
        seconds=time.monotonic() - start,
    )


def _judge_by_sites_alone(
    original: onnx.ModelProto,
    fused: onnx.ModelProto,
    checks: Sequence[SiteCheck],
    shapes: Mapping[str, Sequence[int]] | None,
    found: Findings,
) -> None:
    """No outputs to compare: all sites must be equal, and the rest of the graph the original's."""
    sites = [check.site for check in checks if check.status == "equal" and check.site is not None]
    if len(sites) < len(checks):
        found.refusals.append("neither all sites nor the outputs could be checked")
    elif not (taps.unchanged_elsewhere(original, fused, sites) or _equal_as_a_whole(original, fused, shapes)):
        found.refusals.append("the outputs could not be compared, and fusing changed more than the sites")


def _equal_as_a_whole(original: onnx.ModelProto, fused: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None) -> bool:
    feeds = inputs.make_inputs(original, inputs.KINDS[0], shapes=shapes)
    before, after = (whole_float64.evaluate(proto, feeds) for proto in (original, fused))
    if before is None or after is None:
        return False
    bound = tolerances.output_tolerance(np.dtype(np.float32))
    return all(comparison.ok for comparison in compare_outputs(before, after, tolerance=bound))
