"""One exported form of one model through everything: fused for both targets, run with and without the library.

A fused model may be as far from PyTorch in float64 as PyTorch or the original on ONNX Runtime are in the type of the
export, twice over, and some roundings more. What an exporter or ONNX Runtime refuses to do with the original is a
note; what goes wrong after that is a failure.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import onnx

import gn_onnx
from gn_onnx import GnOnnxError
from gn_onnx.checking import ort_runner
from gn_onnx.checking.site_check import is_group_norm
from models import detections
from models.exporting import Form, RefusedError
from models.registry import Model

TARGETS = ("plugin", "onnx")
VARIANTS = tuple((target, library) for target in TARGETS for library in (False, True))
ROUNDINGS = 16
"""Allowed beyond twice the others' error, in units of the type's epsilon, relative to the output's largest value."""

MOST = {"float32": 1e-4, "float16": 2e-2}
"""Allowed at most, however wrong the others are."""

BOXES = 0.01
"""Pixels by which a detection's edge may be elsewhere than in PyTorch; labels have to be the same."""


@dataclasses.dataclass
class Row:
    """One line of the table.

    Attributes:
        model: Name.
        form: How it was exported.
        expected: GroupNorms that PyTorch runs.
        fused: GroupNorms in the model after fusing, by target.
        torch: PyTorch's error in the type of the export.
        original: The exported model's error on ONNX Runtime.
        errors: The fused models' errors, by (target, library). Errors are against PyTorch in float64, the largest over
            the outputs, relative to an output's largest value.
        labels: Detections whose label is another one than PyTorch's, all variants together; None where the model
            detects nothing or the type is too short to keep close candidates in order.
        refused: What the exporter or ONNX Runtime refuses to do with the original.
        failures: What is wrong with the fused models.
    """

    model: str
    form: Form
    expected: int = 0
    fused: dict[str, int] = dataclasses.field(default_factory=dict)
    torch: float = 0.0
    original: float = 0.0
    errors: dict[tuple[str, bool], float] = dataclasses.field(default_factory=dict)
    labels: int | None = None
    refused: str = ""
    failures: list[str] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        errors = [[target, library, error] for (target, library), error in self.errors.items()]
        return dataclasses.asdict(self) | {"errors": errors}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        errors = {(target, library): error for target, library, error in data["errors"]}
        return cls(**{**data, "form": Form(**data["form"]), "errors": errors})


def check(model: Model, form: Form, folder: pathlib.Path, *, truth: list[np.ndarray] | None = None) -> Row:
    """Exports `model` in `form` and tries all variants.

    Args:
        model: Of float32.
        form: How to export it.
        folder: Where the file may be written.
        truth: What PyTorch computes in float64, where it is known already: `reference(model, form)`.
    """
    path = folder / "model.onnx"
    row = Row(model.name, form, expected=len(model.group_norms()))
    typed = model.to(form.dtype) if form.dtype != model.dtype else model
    try:
        typed.export(path, form)
    except RefusedError as error:
        row.refused = f"exporter: {error}"
        return row
    original = onnx.load(path)
    running = typed.larger_batch() if form.dynamic else typed
    truth = reference(model, form) if truth is None else truth
    try:
        row.original = distance(run(original, running, library=False), truth)
    except GnOnnxError as error:
        row.refused = f"original: {error}"  # it is fused and counted all the same
    if not np.isfinite(row.original):
        row.refused = f"original: outputs are not finite in {form.dtype}, or of another shape than PyTorch's"
    in_torch = [value.numpy() for value in running.outputs()]
    row.torch = distance(in_torch, truth)
    limit = min(2 * max(row.torch, row.original) + ROUNDINGS * float(np.finfo(form.dtype).eps), MOST[form.dtype])
    for target in TARGETS:
        try:
            fused = gn_onnx.fuse(original, target=target).model
        except GnOnnxError as error:
            row.failures.append(f"{target}: {error}")
            continue
        row.fused[target] = sum(is_group_norm(node) for node in fused.graph.node)
        if row.fused[target] != row.expected:
            row.failures.append(f"{target}: {row.fused[target]} of {row.expected} GroupNorms fused")
        for library in () if row.refused else (False, True):
            try:
                outputs = run(fused, running, library=library)
                error = distance(outputs, truth)
            except GnOnnxError as problem:
                row.failures.append(f"{target}, library {library}: {problem}")
                continue
            row.errors[target, library] = error
            if not error <= limit:
                row.failures.append(f"{target}, library {library}: differs by {error:.1e}, allowed {limit:.1e}")
            decoder = detections.DECODERS.get(model.name) if form.dtype == "float32" else None
            if decoder is not None:
                found = detections.differences(decoder(*outputs), decoder(*in_torch))
                row.labels = (row.labels or 0) + int(found["labels"])
                if found["labels"] or not found["boxes"] <= BOXES or not found["scores"] <= MOST["float32"]:
                    row.failures.append(f"{target}, library {library}: detections differ: {found}")
    return row


def reference(model: Model, form: Form) -> list[np.ndarray]:
    """PyTorch in float64, on weights and inputs that are rounded to the type of the export."""
    batch = model.larger_batch() if form.dynamic else model
    rounded = batch.to(form.dtype)
    double = dataclasses.replace(
        rounded,
        module=rounded.module.double(),
        inputs=tuple(value.double() if value.is_floating_point() else value for value in rounded.inputs),
    )
    return [value.numpy() for value in double.outputs()]


def run(proto: onnx.ModelProto, model: Model, *, library: bool) -> list[np.ndarray]:
    """Outputs on ONNX Runtime's CPU provider.

    Raises:
        GnOnnxError: ONNX Runtime does not run it.
    """
    # One thread: on a busy machine small models wait longer for the second than it saves.
    options = ort_runner.Options(library=gn_onnx.library_path() if library else None, threads=1)
    outputs = ort_runner.Session(proto, options).run(model.feeds)
    return [outputs[name] for name in model.home.OUTPUTS]


def distance(mine: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """The largest difference, relative to each output's largest value; infinite where a shape or a NaN differs."""
    worst = 0.0
    for ours, theirs in zip(mine, truth, strict=True):
        if ours.shape != theirs.shape or not np.isfinite(ours).all():
            return float("inf")
        worst = max(worst, float(np.abs(ours.astype(np.float64) - theirs).max() / np.abs(theirs).max()))
    return worst
