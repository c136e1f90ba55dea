"""Parity in full: every output and every GroupNorm site, against the original and float64.

What `gn-onnx parity` prints; `torch_parity` has the comparison with PyTorch. `parity.check_parity` answers yes or no for
programs; here is where and how much.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gn_onnx.checking import arbitration, inputs, ort_runner, pad_fusion, taps, tolerances
from gn_onnx.checking.comparison import Comparison, compare, compare_outputs
from gn_onnx.checking.site_check import SiteCheck, check_sites
from gn_onnx.errors import GnOnnxError
from gn_onnx.files import model_io

Decoder = Callable[..., Mapping[str, np.ndarray]]
"""From a model's outputs, in order, to named arrays: boxes, scores, labels."""


@dataclasses.dataclass(frozen=True)
class SiteParity:
    """One site in one run: the model's node and its baseline, each against float64.

    The baseline is the original's nodes, each side on its own x; or PyTorch's GroupNorm in the model's precision, both
    against PyTorch in float64.
    """

    site: str
    fused: Comparison
    original: Comparison | None

    @property
    def nearer(self) -> bool:
        """Whether the fused node is at least as near to float64 as the baseline."""
        return self.original is None or self.fused.rms <= self.original.rms


@dataclasses.dataclass
class DetailedParity:
    """Everything that was compared.

    Attributes:
        outputs: Each output against each reference, on each kind of data.
        sites: Each site on each kind of data.
        proofs: Each site in float64, original nodes against fused node.
        notes: Sentences for people.
    """

    outputs: list[Comparison] = dataclasses.field(default_factory=list)
    sites: list[SiteParity] = dataclasses.field(default_factory=list)
    proofs: list[SiteCheck] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def ok(self) -> bool:
        outputs = bool(self.outputs) and all(output.ok for output in self.outputs)
        return outputs and not any(proof.status == "different" for proof in self.proofs)

    def to_json(self) -> dict[str, object]:
        return {
            "ok": self.ok,
            "outputs": [output.to_json() for output in self.outputs],
            "sites": [
                {
                    "site": site.site,
                    "nearer_than_original": site.nearer,
                    "fused": site.fused.to_json(),
                    "original": site.original.to_json() if site.original else None,
                }
                for site in self.sites
            ],
            "float64": [proof.to_json() for proof in self.proofs],
            "notes": self.notes,
        }

    def to_text(self) -> str:
        lines = [f"  vs {output.against:14} {output}" for output in self.outputs]
        if self.sites:
            worst = max(self.sites, key=lambda site: site.fused.relative / max(site.fused.tolerance, 1e-300))
            lines.append(f"  worst site        {worst.fused}")
            if any(site.original for site in self.sites):
                nearer = sum(site.nearer for site in self.sites)
                baseline = "PyTorch" if self.sites[0].fused.against == "torch float64" else "the original"
                lines.append(f"  nearer to float64 than {baseline}, or as near: {nearer} of {len(self.sites)} sites")
        if self.proofs:
            equal = sum(proof.status == "equal" for proof in self.proofs)
            lines.append(f"  equal in float64: {equal} of {len(self.proofs)} sites")
        return "\n".join(lines + [f"  note  {note}" for note in self.notes])


def against_original(
    path: pathlib.Path,
    original_path: pathlib.Path,
    *,
    providers: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
    tolerance: float | None = None,
    decode: Decoder | None = None,
) -> DetailedParity:
    """Compare a fused file with the file that it was made from.

    Raises:
        GnOnnxError: A file cannot be read or run.
    """
    fused, original = model_io.load_proto(path), model_io.load_proto(original_path)
    library = ort_runner.find_library()
    before = ort_runner.Options(providers=providers, data_folder=original_path.parent)
    after = ort_runner.Options(providers=providers, data_folder=path.parent, library=library)
    found = DetailedParity()
    if library is None:
        found.notes.append("the operator library is not built: the fused model ran by its function bodies")
    found.proofs = check_sites(
        original,
        fused,
        input_shapes=inputs.input_shapes(original, shapes),
        folder=original_path.parent,
        fused_folder=path.parent,
    )
    sites = [proof.site for proof in found.proofs if proof.site is not None]
    baseline, session = ort_runner.Session(original, before), ort_runner.Session(fused, after)
    for kind in inputs.KINDS:
        feeds = inputs.make_inputs(original, kind, shapes=shapes)
        results, mine = baseline.run(feeds), session.run(feeds)
        compared = compare_outputs(results, mine, data=kind, tolerance=tolerance, coarsest=tolerances.coarsest(original))
        far = [comparison for comparison in compared if not comparison.ok]
        if far and tolerance is None:
            explained = arbitration.explain(
                original, fused, found.proofs, feeds, results, after, far[0], time.monotonic() + 60, found.notes,
                agree_elsewhere=bool(found.outputs) and all(output.ok for output in found.outputs),
            )  # fmt: skip
            compared = [dataclasses.replace(c, explained=explained and not c.ok) for c in compared]
        found.outputs += compared
        if decode is not None and kind == inputs.KINDS[0]:
            found.outputs += compare_decoded(decode, [*results.values()], [*mine.values()], against="original", data=kind)
        found.notes += pad_fusion.notes(original, feeds, results, before) if kind == inputs.KINDS[0] else []
        try:
            new = {n.site: n for n in taps.site_numerics(fused, sites, feeds, options=after, data=kind)}
            old = {n.site: n for n in taps.site_numerics(original, sites, feeds, options=before, data=kind, original=True)}
        except GnOnnxError as error:
            found.notes.append(f"{kind}: sites not tapped: {error}")
            continue
        for name, numeric in new.items():
            theirs = old[name].comparison if name in old else None
            found.sites.append(SiteParity(name, numeric.comparison, theirs))
    return found


def compare_decoded(
    decode: Decoder, expected: Sequence[np.ndarray], actual: Sequence[np.ndarray], *, against: str, data: str
) -> list[Comparison]:
    """What both models' outputs mean, such as boxes, scores and labels, instead of raw numbers; labels must be equal.

    Raises:
        GnOnnxError: The decoder does not take these outputs.
    """
    try:
        theirs, ours = decode(*expected), decode(*actual)
    except (TypeError, ValueError, IndexError) as error:
        raise GnOnnxError(f"the decoder does not take the model's outputs: {error}") from error
    # Decoders may compute in wider types; what they decode has the precision of the outputs.
    precision = max((np.dtype(array.dtype) for array in actual), key=tolerances.output_tolerance)
    return [
        compare(
            theirs[name], ours[name], name=f"decoded {name}", against=against, data=data,
            dtype=precision if ours[name].dtype.kind == "f" else None,
        )
        for name in theirs
    ]  # fmt: skip


def load_function(option: str, text: str) -> Callable[..., Any]:
    """`package.module:function` to the function; modules of the working directory are found.

    Raises:
        GnOnnxError: Another form, or no such module or function.
    """
    import importlib
    import sys

    name, colon, function = text.partition(":")
    if not (name and colon and function):
        raise GnOnnxError(f"{option} {text!r}: expected MODULE:FUNCTION, as in models.fcos:build")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        built = getattr(importlib.import_module(name), function)
    except (ImportError, AttributeError) as error:
        raise GnOnnxError(f"{option} {text}: {error}") from error
    if not callable(built):
        raise GnOnnxError(f"{option} {text}: is not a function")
    return built  # type: ignore[no-any-return]
