"""Parity in full: every output and every GroupNorm site, against the original, PyTorch and float64.

What `gn-onnx parity` prints. `parity.check_parity` answers yes or no for programs; here is where and how much.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gn_onnx.checking import arbitration, inputs, ort_runner, taps, tolerances
from gn_onnx.checking.comparison import Comparison, compare, compare_outputs
from gn_onnx.checking.site_check import SiteCheck, check_sites
from gn_onnx.errors import GnOnnxError
from gn_onnx.files import model_io


@dataclasses.dataclass(frozen=True)
class SiteParity:
    """One site in one run, each side against float64 on its own x."""

    site: str
    fused: Comparison
    original: Comparison | None

    @property
    def nearer(self) -> bool:
        """Whether the fused node is at least as near to float64 as the original's nodes were."""
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
                lines.append(f"  nearer to float64 than the original, or as near: {nearer} of {len(self.sites)} sites")
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
        results = baseline.run(feeds)
        compared = compare_outputs(
            results, session.run(feeds), data=kind, tolerance=tolerance, coarsest=tolerances.coarsest(original)
        )
        far = [comparison for comparison in compared if not comparison.ok]
        if far and tolerance is None:
            explained = arbitration.explain(
                original, fused, found.proofs, feeds, results, after, far[0], time.monotonic() + 60, found.notes,
                agree_elsewhere=bool(found.outputs) and all(output.ok for output in found.outputs),
            )  # fmt: skip
            compared = [dataclasses.replace(c, explained=explained and not c.ok) for c in compared]
        found.outputs += compared
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


def against_torch(
    path: pathlib.Path,
    build: Callable[[], Any],
    *,
    providers: Sequence[str],
    tolerance: float | None = None,
) -> DetailedParity:
    """Compare a file with the PyTorch module that it was exported from.

    Args:
        path: The model, fused or not.
        build: Returns the module and its example inputs (a tuple of tensors).
        providers: Execution providers.
        tolerance: See `parity.check_parity`.

    Returns:
        Comparisons with PyTorch in the module's own precision and in float64. Against float64 the tolerance is
        at least twice PyTorch's own error.

    Raises:
        GnOnnxError: PyTorch is not installed, the file cannot be run, or inputs and outputs do not fit.
    """
    proto = model_io.load_proto(path)
    library = ort_runner.find_library()
    session = ort_runner.Session(proto, ort_runner.Options(providers=providers, data_folder=path.parent, library=library))
    module, examples = build()
    names = [value.name for value in inputs.graph_inputs(proto)]
    if len(names) != len(examples):
        raise GnOnnxError(f"{path} has the inputs {names}, the PyTorch module takes {len(examples)}")
    actual = session.run({name: tensor.detach().numpy() for name, tensor in zip(names, examples, strict=True)})
    own = _torch_outputs(module, examples, double=False)
    wide = _torch_outputs(module, examples, double=True)
    if len(own) != len(actual):
        raise GnOnnxError(f"{path} has {len(actual)} outputs, the PyTorch module returns {len(own)}")
    found = DetailedParity()
    for (name, ours), theirs, truth in zip(actual.items(), own, wide, strict=True):
        found.outputs.append(compare(theirs, ours, name=name, against="torch", data="example", tolerance=tolerance))
        of_torch = compare(truth, theirs, name=name, against="torch float64", dtype=ours.dtype)
        bound = tolerances.output_tolerance(ours.dtype) if tolerance is None else tolerance
        found.outputs.append(
            compare(
                truth, ours, name=name, against="torch float64", data="example", dtype=ours.dtype,
                tolerance=max(bound, 2 * of_torch.relative),
            )
        )  # fmt: skip
    return found


def _torch_outputs(module: Any, examples: Sequence[Any], *, double: bool) -> list[np.ndarray]:
    import copy

    import torch

    module = copy.deepcopy(module).eval()
    if double:
        module = module.double()
        examples = [tensor.double() if tensor.is_floating_point() else tensor for tensor in examples]
    with torch.no_grad():
        return [tensor.numpy() for tensor in _flatten(module(*examples))]


def _flatten(value: Any) -> list[Any]:
    """Tensors in the order in which the exporters number them."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in _flatten(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _flatten(item)]
    return [value]


def load_builder(text: str) -> Callable[[], Any]:
    """`package.module:function` to the function; modules of the working directory are found.

    Raises:
        GnOnnxError: Another form, or no such module or function.
    """
    import importlib
    import sys

    name, colon, function = text.partition(":")
    if not (name and colon and function):
        raise GnOnnxError(f"--torch {text!r}: expected MODULE:FUNCTION, as in models.fcos:build")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        built = getattr(importlib.import_module(name), function)
    except (ImportError, AttributeError) as error:
        raise GnOnnxError(f"--torch {text}: {error}") from error
    if not callable(built):
        raise GnOnnxError(f"--torch {text}: is not a function")
    return built  # type: ignore[no-any-return]
