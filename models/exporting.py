"""Modules to ONNX files, by both of PyTorch's exporters.

A refusal of the exporter itself is a value, `Refused` with its first line: it is part of what is measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator, Mapping

import torch

Axes = Mapping[str, Mapping[int, str]]
"""Input name -> axis -> name of the size, where it is not fixed."""


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to export.

    Attributes:
        exporter: "torchscript" or "dynamo".
        opset: The ONNX opset asked for.
        dynamic: With the sizes that the model leaves open.
        dtype: "float32" or "float16".
    """

    exporter: str = "torchscript"
    opset: int = 17
    dynamic: bool = False
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.exporter} {self.opset} {'dynamic' if self.dynamic else 'static'} {self.dtype}"


class RefusedError(Exception):
    """The exporter does not export this; the message is its own first line."""


def export(
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    path: pathlib.Path,
    form: Form,
    *,
    input_names: list[str],
    output_names: list[str],
    axes: Axes | None = None,
) -> None:
    """Writes the module to `path`. Module and inputs are of `form.dtype` already.

    Raises:
        RefusedError: The exporter fails.
    """
    keep = {name: dict(sizes) for name, sizes in (axes or {}).items()} if form.dynamic else None
    try:
        with _quiet(), torch.no_grad():
            if form.exporter == "torchscript":
                torch.onnx.export(
                    module, inputs, str(path), opset_version=form.opset, dynamo=False,
                    input_names=input_names, output_names=output_names, dynamic_axes=keep,
                )  # fmt: skip
            else:
                shapes = None if keep is None else tuple(keep.get(name, {}) for name in input_names)
                torch.onnx.export(
                    module, inputs, str(path), opset_version=form.opset, dynamo=True, external_data=False, verbose=False,
                    input_names=input_names, output_names=output_names, dynamic_shapes=shapes,
                )  # fmt: skip
    except Exception as error:  # an exporter raises anything at all
        path.unlink(missing_ok=True)
        raise RefusedError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause: outer ones only say which step of the export failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print their progress, warn about themselves and, from C++, print whole graphs on an error."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    previous = logging.root.manager.disable
    with warnings.catch_warnings(), open(os.devnull, "wb") as nowhere:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        for number in (1, 2):
            os.dup2(nowhere.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            logging.disable(previous)


def cast(value: torch.Tensor, dtype: str) -> torch.Tensor:
    """Floating point inputs to the type of the export; indices and masks as they are."""
    return value.to(getattr(torch, dtype)) if value.is_floating_point() else value
