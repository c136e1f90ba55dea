"""Does the fused model compute what the original computes? Every output, on three kinds of input data.

This is the end-to-end comparison in ONNX Runtime. Where the two differ by more than the table allows,
`arbitration` decides whether the original is the inaccurate side. Imports: numpy, onnx; ONNX Runtime inside `ort_runner`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from gn_onnx.checking import arbitration, ort_runner, tolerances
from gn_onnx.checking import inputs as generated
from gn_onnx.checking.comparison import Comparison, compare_outputs
from gn_onnx.checking.site_check import SiteCheck, check_sites
from gn_onnx.files import model_io

Model = onnx.ModelProto | ir.Model | str | os.PathLike[str]
Feeds = Mapping[str, np.ndarray]

_SECONDS_FOR_EXPLANATION = 60.0


@dataclasses.dataclass(frozen=True)
class ParityReport:
    """The result of one comparison of two models.

    Attributes:
        comparisons: One per output and kind of data.
        seconds: Time that it took.
        notes: Sentences for people.
    """

    comparisons: tuple[Comparison, ...]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Every output within its tolerance, and at least one output compared."""
        return bool(self.comparisons) and all(comparison.ok for comparison in self.comparisons)

    @property
    def worst(self) -> Comparison:
        """The comparison that is nearest to its tolerance, or furthest beyond it."""
        return max(self.comparisons, key=lambda c: (bool(c.reason), c.relative / max(c.tolerance, 1e-300)))

    def to_json(self) -> dict[str, object]:
        comparisons = [comparison.to_json() for comparison in self.comparisons]
        return {"ok": self.ok, "seconds": self.seconds, "notes": list(self.notes), "outputs": comparisons}

    def __str__(self) -> str:
        return "\n".join([*map(str, self.comparisons), *self.notes])


def check_parity(
    original: Model,
    fused: Model,
    *,
    providers: Sequence[str] | None = None,
    tolerance: float | None = None,
    inputs: Feeds | Sequence[Feeds] | None = None,
) -> ParityReport:
    """Run both models in ONNX Runtime and compare every output.

    The fused model runs on our operator library where that is built, else by its function bodies.

    Args:
        original: The model before fusing: a path, a ModelProto or an onnx_ir model.
        fused: The model after.
        providers: Execution providers of both; None means the CPU.
        tolerance: Largest |difference| relative to the output's largest |value|; None takes the table's value
            for each output's type (`tolerances`).
        inputs: One set of inputs by name, or several; None makes one of each kind in `inputs.KINDS`.

    Returns:
        The report; `.ok` says whether all outputs agree, or differ for a reason that is not the fused model's.

    Raises:
        GnOnnxError: A model cannot be read, loaded or run, or the two have other inputs or outputs.
    """
    start = time.perf_counter()
    before, folder = as_proto(original)
    after, other_folder = as_proto(fused)
    sets = _feed_sets(before, inputs)
    library = ort_runner.find_library()
    options = ort_runner.Options(providers=providers or ort_runner.CPU, data_folder=folder)
    expected = ort_runner.Session(before, options)
    actual = ort_runner.Session(after, dataclasses.replace(options, library=library, data_folder=other_folder or folder))
    comparisons: list[Comparison] = []
    notes: list[str] = []
    for data, feeds in sets.items():
        results = expected.run(feeds)
        compared = compare_outputs(
            results, actual.run(feeds), data=data, tolerance=tolerance, coarsest=tolerances.coarsest(before)
        )
        far = [comparison for comparison in compared if not comparison.ok]
        if far and tolerance is None:
            agree = bool(comparisons) and all(comparison.ok for comparison in comparisons)
            explained = arbitration.explain(
                before,
                after,
                _site_checks(before, after, feeds, folder, other_folder),
                feeds,
                results,
                dataclasses.replace(options, library=library, data_folder=other_folder or folder),
                far[0],
                time.monotonic() + _SECONDS_FOR_EXPLANATION,
                notes,
                agree_elsewhere=agree,
            )
            compared = [dataclasses.replace(c, explained=explained and not c.ok) for c in compared]
        comparisons += compared
    if library is None:
        notes.append("the operator library is not built: the fused model ran by its function bodies")
    return ParityReport(tuple(comparisons), time.perf_counter() - start, tuple(notes))


def _site_checks(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    feeds: Feeds,
    folder: pathlib.Path | None,
    other_folder: pathlib.Path | None,
) -> list[SiteCheck]:
    shapes = {name: array.shape for name, array in feeds.items()}
    return check_sites(before, after, input_shapes=shapes, folder=folder, fused_folder=other_folder)


def as_proto(model: Model) -> tuple[onnx.ModelProto, pathlib.Path | None]:
    """The model as ModelProto, and the folder of its external data where it came from a file.

    Raises:
        GnOnnxError: As `model_io.load_proto`.
    """
    if isinstance(model, onnx.ModelProto):
        return model, None
    if isinstance(model, ir.Model):
        return model_io.to_proto(model), None
    path = pathlib.Path(model)
    return model_io.load_proto(path), path.parent


def _feed_sets(proto: onnx.ModelProto, inputs: Feeds | Sequence[Feeds] | None) -> dict[str, Feeds]:
    if inputs is None:
        return {kind: generated.make_inputs(proto, kind) for kind in generated.KINDS}
    if isinstance(inputs, Mapping):
        return {"given": inputs}
    return {f"given {index}": feeds for index, feeds in enumerate(inputs)}
