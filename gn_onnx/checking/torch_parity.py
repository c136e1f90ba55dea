"""A model beside the PyTorch module that it was exported from: every output, and inside at every GroupNorm.

PyTorch runs twice, in the type of the model's inputs and, with the same rounded weights, in float64. Each call of its
GroupNorm operator is recorded, whoever made it. torch is imported inside functions.
"""

from __future__ import annotations

import copy
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from gn_onnx.checking import inputs, ort_runner, pad_fusion, taps, tolerances
from gn_onnx.checking.comparison import compare
from gn_onnx.checking.detailed_parity import Decoder, DetailedParity, SiteParity, compare_decoded
from gn_onnx.checking.site_check import is_group_norm
from gn_onnx.errors import GnOnnxError
from gn_onnx.files import model_io
from gn_onnx.group_norm import ACTIVATIONS, op_type
from gn_onnx.reference import activate


@dataclasses.dataclass
class TorchRun:
    """What PyTorch computed: the outputs, and the result of every GroupNorm in the order of the calls."""

    outputs: list[np.ndarray]
    group_norms: list[np.ndarray]


def against_torch(
    path: pathlib.Path,
    build: Callable[[], Any],
    *,
    providers: Sequence[str],
    tolerance: float | None = None,
    decode: Decoder | None = None,
) -> DetailedParity:
    """Compare a file with the PyTorch module that it was exported from.

    Args:
        path: The model, fused or not.
        build: Returns the module and its example inputs (a tuple of tensors); both are brought to the type of the
            model's first floating-point input.
        providers: Execution providers.
        tolerance: See `parity.check_parity`.
        decode: From the outputs to what they mean, compared too.

    Returns:
        Comparisons with PyTorch in the model's precision and in float64. Against float64 the tolerance is at least
        twice PyTorch's own error.

    Raises:
        GnOnnxError: PyTorch is not installed, the file cannot be run, or inputs and outputs do not fit.
    """
    proto = model_io.load_proto(path)
    options = ort_runner.Options(providers=providers, data_folder=path.parent, library=ort_runner.find_library())
    module, examples = build()
    values = inputs.graph_inputs(proto)
    names = [value.name for value in values]
    if len(names) != len(examples):
        raise GnOnnxError(f"{path} has the inputs {names}, the PyTorch module takes {len(examples)}")
    module, examples = _typed(module, examples, _float_type(values))
    feeds = {name: _array(tensor) for name, tensor in zip(names, examples, strict=True)}
    actual = ort_runner.Session(proto, options).run(feeds)
    own, wide = run(module, examples), run(*_typed(module, examples, "float64"))
    if len(own.outputs) != len(actual):
        raise GnOnnxError(f"{path} has {len(actual)} outputs, the PyTorch module returns {len(own.outputs)}")
    found = DetailedParity()
    if options.library is None:
        found.notes.append("the operator library is not built: the fused model ran by its function bodies")
    coarsest = tolerances.coarsest(proto)
    for (name, ours), theirs, truth in zip(actual.items(), own.outputs, wide.outputs, strict=True):
        of_torch = compare(truth, theirs, name=name, against="torch float64", dtype=ours.dtype)
        bound = max(tolerances.output_tolerance(ours.dtype), coarsest) if tolerance is None else tolerance
        found.outputs.append(compare(theirs, ours, name=name, against="torch", data="example", tolerance=bound))
        wider = max(bound, 2 * of_torch.relative)
        found.outputs.append(
            compare(
                truth, ours, name=name, against="torch float64", data="example", dtype=ours.dtype, tolerance=wider,
            )
        )  # fmt: skip
    if decode is not None:
        found.outputs += compare_decoded(decode, own.outputs, list(actual.values()), against="torch", data="example")
    found.notes += pad_fusion.notes(proto, feeds, actual, options)
    try:
        found.sites = list(_sites(proto, feeds, options, own, wide))
    except GnOnnxError as error:
        found.notes.append(f"sites not compared with PyTorch's: {error}")
    return found


def _sites(
    proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray], options: ort_runner.Options, own: TorchRun, wide: TorchRun
) -> Iterator[SiteParity]:
    """Each GroupNorm node beside PyTorch's call of the same place in the order, both against PyTorch in float64."""
    nodes = [node for node in proto.graph.node if is_group_norm(node)]
    if not nodes:
        raise GnOnnxError("the model has no GroupNorm nodes: fuse it first")
    if len(nodes) != len(own.group_norms):
        raise GnOnnxError(f"the model has {len(nodes)} GroupNorm nodes, PyTorch ran {len(own.group_norms)}")
    runnable = taps.with_outputs(proto, (node.output[0] for node in nodes))
    values = ort_runner.Session(runnable, options).run(feeds)
    for node, theirs, truth in zip(nodes, own.group_norms, wide.group_norms, strict=True):
        name, y = node.output[0], values[node.output[0]]
        theirs, truth = (_as_node(node, value) for value in (theirs, truth))
        if y.shape != truth.shape:
            raise GnOnnxError(f"{name!r} is of shape {list(y.shape)}, PyTorch's of {list(truth.shape)}")
        of_torch = compare(truth, theirs, name=name, against="torch float64", data="example", dtype=y.dtype)
        # What lies before the site has rounded on both sides; PyTorch shows how much of that is natural.
        bound = max(tolerances.output_tolerance(y.dtype), 2 * of_torch.relative)
        of_model = compare(
            truth, y, name=name, against="torch float64", data="example", dtype=y.dtype, tolerance=bound,
        )  # fmt: skip
        yield SiteParity(name, of_model, of_torch)


def _as_node(node: onnx.NodeProto, y: np.ndarray) -> np.ndarray:
    """PyTorch's result as the node gives it: with the node's activation, channels where the node has them."""
    for activation in ACTIVATIONS:
        for channels_last in (False, True):
            if node.op_type == op_type(activation, channels_last=channels_last):
                alpha = next((attribute.f for attribute in node.attribute if attribute.name == "alpha"), 0.01)
                y = activate(y.astype(np.float64), activation, alpha).astype(y.dtype)
                return np.moveaxis(y, 1, -1) if channels_last else y
    return y


def run(module: Any, examples: Sequence[Any]) -> TorchRun:
    """Runs a module in eval mode and records its GroupNorms."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    recorded: list[np.ndarray] = []

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if function is torch.ops.aten.native_group_norm.default:
                recorded.append(_array(result[0]).copy())  # what follows may work in place
            return result

    with torch.no_grad(), Recorder():  # type: ignore[no-untyped-call]
        outputs = [_array(tensor) for tensor in _flatten(module(*examples))]
    return TorchRun(outputs, recorded)


def _typed(module: Any, examples: Sequence[Any], dtype: str | None) -> tuple[Any, list[Any]]:
    """Copies in another floating-point type; None leaves the type as it is."""
    import torch

    module = copy.deepcopy(module).eval()
    if dtype is None:
        return module, list(examples)
    target = getattr(torch, dtype)
    return module.to(target), [e.to(target) if e.is_floating_point() else e for e in examples]


def _float_type(values: Sequence[inputs.GraphInput]) -> str | None:
    names = (tolerances.name_of(value.numpy_type) for value in values)
    return next((name for name in names if name in tolerances.UNIT), None)


def _array(tensor: Any) -> np.ndarray:
    """numpy has no bfloat16 of its own, and PyTorch gives it none."""
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        widened: np.ndarray = tensor.float().numpy().astype(ml_dtypes.bfloat16)
        return widened
    array: np.ndarray = tensor.numpy()
    return array


def _flatten(value: Any) -> list[Any]:
    """Tensors in the order in which the exporters number them."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in _flatten(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _flatten(item)]
    return [value]
