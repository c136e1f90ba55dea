"""`gn_onnx.export`: from a PyTorch module to a file with one node per GroupNorm, in one step."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from gn_onnx.errors import GnOnnxError
from gn_onnx.exporting.dynamo import translation_table
from gn_onnx.exporting.torchscript import symbolics
from gn_onnx.files import model_io
from gn_onnx.fuse import FuseGroupNorm, FusionResult

if TYPE_CHECKING:
    import os

    import torch

_TORCHSCRIPT_OPSET = 17
_DYNAMO_OPSET = 18


def export(
    model: torch.nn.Module | torch.export.ExportedProgram,
    args: Sequence[Any] = (),
    path: str | os.PathLike[str] | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamo: bool = True,
    opset_version: int | None = None,
    activations: bool = True,
    **options: Any,
) -> FusionResult[ir.Model]:
    """Exports a PyTorch module with each GroupNorm as one node of ours, function bodies included.

    Args:
        model: A module, or what `torch.export.export` made of one (dynamo only).
        args: Its example inputs.
        path: File to write, whole or not at all; None writes none.
        kwargs: Its example inputs by name.
        dynamo: PyTorch's newer exporter; False takes the TorchScript exporter.
        opset_version: Of the ONNX domain; the default is 18, or 17 with TorchScript.
        activations: Take an activation behind a GroupNorm into its node.
        options: Others of `torch.onnx.export`, e.g. dynamic_shapes, dynamic_axes, input_names.

    Returns:
        The model, its GroupNorms in graph order, and look-alikes that stay as they are.

    Raises:
        GnOnnxError: PyTorch is missing or does not export the module, or the file cannot be written.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise GnOnnxError("gn_onnx.export needs PyTorch: pip install 'gn_onnx[torch]'") from error
    exporter = _by_dynamo if dynamo else _by_torchscript
    version = opset_version or (_DYNAMO_OPSET if dynamo else _TORCHSCRIPT_OPSET)
    try:
        exported = exporter(torch.onnx.export, model, tuple(args), dict(kwargs or {}), version, options)
    except torch.onnx.errors.OnnxExporterError as error:
        raise GnOnnxError(f"PyTorch does not export {type(model).__name__}: {str(error).splitlines()[0]}") from error
    fuser = FuseGroupNorm(activations=activations)
    result = fuser(exported).model
    if path is not None:
        model_io.save(result, path)
    return FusionResult(result, fuser.fused, fuser.rejected)


def _by_dynamo(
    run: Any, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], version: int, options: Mapping[str, Any]
) -> ir.Model:
    table = {**translation_table(), **options.get("custom_translation_table", {})}
    given: dict[str, Any] = {"verbose": False, **options, "custom_translation_table": table}
    program = run(model, args, kwargs=kwargs or None, dynamo=True, opset_version=version, **given)
    exported: ir.Model = program.model
    return exported


def _by_torchscript(
    run: Any, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], version: int, options: Mapping[str, Any]
) -> ir.Model:
    with tempfile.TemporaryDirectory() as folder, symbolics(version) as custom_opsets:
        file = pathlib.Path(folder) / "model.onnx"
        given: dict[str, Any] = {**options, "custom_opsets": {**custom_opsets, **options.get("custom_opsets", {})}}
        run(model, args, str(file), kwargs=kwargs or None, dynamo=False, opset_version=version, **given)
        exported = model_io.load_model(file)
        _into_memory(exported)
        return exported


def _into_memory(model: ir.Model) -> None:
    """Tensors that the exporter put beside a file above 2 GB: that file is gone soon."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
