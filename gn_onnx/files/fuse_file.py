"""Fuse one file into another: read, fuse, verify, write. What the command `fuse` does, for programs too."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Literal

import onnx

import gn_onnx
from gn_onnx import collector
from gn_onnx.checking import verify
from gn_onnx.checking.site_check import is_group_norm
from gn_onnx.errors import GnOnnxError, ParityError
from gn_onnx.files import atomic_file, external_data, graph_walk, model_io
from gn_onnx.reporting.report import FusionReport

Target = Literal["plugin", "onnx"]

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Request:
    """What to do with a file.

    Attributes:
        model: File to read.
        output: File to write; None writes none.
        target: "plugin" or "onnx".
        activations: Whether activations behind a GroupNorm become part of it.
        freeze_defaults: Whether inputs that have a default value become constants.
        verify: Whether to verify before writing.
        in_place: Whether `output` may be the file itself.
        shapes: Shapes of graph inputs for verification.
    """

    model: pathlib.Path
    output: pathlib.Path | None = None
    target: Target = "plugin"
    activations: bool = True
    freeze_defaults: bool = False
    verify: bool = True
    in_place: bool = False
    shapes: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)


def fuse_file(request: Request) -> FusionReport:
    """Carry out a request.

    Returns:
        The report. Where nothing was to be fused, the output is a copy of the model.

    Raises:
        GnOnnxError: The model cannot be read, or the output not written.
        ParityError: The fused model is wrong; nothing was written. `.report` has the details.
    """
    path, output = request.model, request.output
    if output is not None and not request.in_place and same_file(path, output):
        raise GnOnnxError(f"{output}: is the model itself; use --in-place to replace it")
    if output is not None:
        atomic_file.check_target(output)
    report, proto, fused = _fuse(request)
    if output is None:
        return report
    external_data.must_not_be_replaced(proto, path.parent, output)
    data = model_io.serialize(fused, output) if report.fused else path.read_bytes()
    if request.verify and report.fused:
        report = dataclasses.replace(report, verification=_verify(request, proto, fused))
        if report.verification is not None and not report.verification.ok:
            raise Refused(report)
    if report.fused or not same_file(path, output):
        _write(fused, data, output, path)
        report = dataclasses.replace(report, output=output)
    return report


def examine(request: Request) -> FusionReport:
    """Fuse and verify in memory; a wrong model is told in the report.

    Raises:
        GnOnnxError: The model cannot be read or verified.
    """
    report, proto, fused = _fuse(request)
    if request.verify and report.fused:
        report = dataclasses.replace(report, verification=_verify(request, proto, fused))
    return report


@collector.paused()
def _fuse(request: Request) -> tuple[FusionReport, onnx.ModelProto, onnx.ModelProto]:
    """The report without verification, the model before and the model after (the same one if nothing was fused)."""
    path = request.model
    proto = model_io.load_proto(path)
    start = time.perf_counter()
    model = model_io.to_ir(proto, folder=path.parent, name=str(path))
    fuser = gn_onnx.FuseGroupNorm(request.target, activations=request.activations, freeze_defaults=request.freeze_defaults)
    try:
        model = fuser(model).model
        seconds = time.perf_counter() - start
        # A file without a GroupNorm is not written anew: not one byte of it should change.
        fused = model_io.to_proto(model, like=proto) if fuser.fused else proto
    except GnOnnxError as error:
        raise GnOnnxError(f"{path}: {error}") from error
    for site in fuser.fused:
        _LOG.info("  %s: %s", site.core or "site", site)
    report = FusionReport(
        model=path,
        target=request.target,
        fused=fuser.fused,
        rejected=fuser.rejected,
        already=0 if fuser.fused else sum(is_group_norm(node) for node in all_nodes(proto)),
        nodes=(count_nodes(proto), count_nodes(fused)),
        bytes=(proto.ByteSize() + external_data.size_in_bytes(proto), fused.ByteSize() + external_data.size_in_bytes(fused)),
        seconds=seconds,
    )
    return report, proto, fused


class Refused(ParityError):
    """The fused model is wrong or could not be shown to be right; nothing was written."""

    def __init__(self, report: FusionReport) -> None:
        reason = report.verification.reason if report.verification else ""
        super().__init__(
            f"{report.model}: the fused model is not equal to the original: {reason}. Nothing was written."
            " This is a fault of gn-onnx, please report it with the model; --no-verify writes it all the same."
        )
        self.report = report


def _verify(request: Request, proto: onnx.ModelProto, fused: onnx.ModelProto) -> verify.Verification:
    if request.freeze_defaults:
        proto = _with_inputs_of(fused, proto)
    try:
        return verify.verify(proto, fused, folder=request.model.parent, shapes=request.shapes)
    except GnOnnxError as error:
        raise GnOnnxError(f"{request.model}: cannot verify: {error} (--no-verify writes it unchecked)") from error


def _with_inputs_of(fused: onnx.ModelProto, proto: onnx.ModelProto) -> onnx.ModelProto:
    """The original, in which nobody can feed what has become a constant either."""
    names = {value.name for value in fused.graph.input}
    frozen = onnx.ModelProto()
    frozen.CopyFrom(proto)
    del frozen.graph.input[:]
    frozen.graph.input.extend(value for value in proto.graph.input if value.name in names)
    return frozen


def _write(proto: onnx.ModelProto, data: bytes, output: pathlib.Path, source: pathlib.Path) -> None:
    copied = external_data.take_along(proto, source.parent, output.resolve().parent)
    written = False
    try:
        with atomic_file.replacing(output) as file:
            file.write(data)
        written = True
    finally:
        if not written:
            external_data.discard(copied)


def same_file(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Whether both names lead to one file; a file that does not exist is no other."""
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        return False


def all_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of the graph and its subgraphs; function bodies are not part of the graph."""
    found: list[onnx.NodeProto] = []
    pending = list(proto.graph.node)
    while pending:
        node = pending.pop()
        found.append(node)
        for graph in graph_walk.subgraphs(node):
            pending.extend(graph.node)
    return found


def count_nodes(proto: onnx.ModelProto) -> int:
    """Constants are not counted: they are data."""
    return sum(node.op_type != "Constant" for node in all_nodes(proto))
