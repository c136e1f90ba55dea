"""Exported from PyTorch with our operators in them: the numbers are PyTorch's, with the library and without."""

from __future__ import annotations

import copy
import pathlib
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import KINDS, sample

import gn_onnx

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.ort, pytest.mark.torch]

EPSILON = 1e-5


class Network(torch.nn.Module):
    """GroupNorm with SiLU, a functional one with ReLU, one without affine; [N, 8, H, W] -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.GroupNorm(4, 8, EPSILON), torch.nn.GroupNorm(2, 8, EPSILON, affine=False)
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 2, 8))
        with torch.no_grad():
            self.first.weight.copy_(torch.linspace(-1, 2, 8))
            self.first.bias.copy_(torch.linspace(1, -1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.silu(self.first(x))
        x = torch.relu(torch.nn.functional.group_norm(x, 8, self.weight, None, EPSILON))
        return self.last(x)


EXPORTS: dict[str, dict[str, Any]] = {
    "dynamo 18": {},
    "dynamo 21, dynamic": {
        "opset_version": 21,
        "dynamic_shapes": ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},),
    },
    "TorchScript 17": {"dynamo": False},
    "TorchScript 11, dynamic": {
        "dynamo": False, "opset_version": 11, "input_names": ["x"], "dynamic_axes": {"x": {0: "N", 2: "H", 3: "W"}},
    },
}  # fmt: skip


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.domain == "gn_onnx"]


def run(model: ir.Model, x: np.ndarray, *, library: bool) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if library:
        gn_onnx.register(options)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("name", EXPORTS)
def test_export(name: str) -> None:
    network = Network().eval()
    result = gn_onnx.export(network, (torch.zeros(2, 8, 5, 6),), **EXPORTS[name])
    assert ops(result.model) == ["GroupNormalizationSilu", "GroupNormalizationRelu", "GroupNormalization"]
    precise = copy.deepcopy(network).double()
    for kind in KINDS:
        x = sample(kind, (2, 8, 5, 6), EPSILON).astype(np.float32)
        with torch.no_grad():
            want = precise(torch.from_numpy(x).double()).numpy()
        for library in (True, False):
            got = run(result.model, x, library=library)
            np.testing.assert_allclose(got, want, rtol=0, atol=5e-4 * np.abs(want).max())


@pytest.mark.parametrize("dynamo", [True, False])
def test_in_half_precision(dynamo: bool) -> None:
    network = Network().eval().half()
    x = sample("ordinary", (2, 8, 5, 6), EPSILON).astype(np.float16)
    result = gn_onnx.export(network, (torch.from_numpy(x),), dynamo=dynamo)
    assert len(ops(result.model)) == 3
    with torch.no_grad():
        want = copy.deepcopy(network).double()(torch.from_numpy(x).double()).numpy()
    for library in (True, False):
        np.testing.assert_allclose(run(result.model, x, library=library), want, rtol=0, atol=4e-3 * np.abs(want).max())


class Mixed(torch.nn.Module):
    """What autocast leaves: a half-precision x and float32 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.GroupNorm(4, 8, EPSILON)
        self.conv = torch.nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.float16):
            return torch.nn.functional.silu(self.norm(self.conv(x))).float()


@pytest.mark.parametrize("options", [{}, {"opset_version": 21}, {"dynamo": False}], ids=["18", "21", "TorchScript"])
def test_under_autocast(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = Mixed().eval()
    x = sample("ordinary", (2, 8, 5, 6), EPSILON).astype(np.float32)
    result = gn_onnx.export(network, (torch.from_numpy(x),), **options)
    assert len(ops(result.model)) == 1
    with torch.no_grad():
        want = network(torch.from_numpy(x)).numpy()
    for library in (True, False):
        got = run(result.model, x, library=library)
        np.testing.assert_allclose(got, want, rtol=0, atol=4e-3 * np.abs(want).max())


def test_an_exported_program_with_decompositions() -> None:
    network = Network().eval()
    x = sample("ordinary", (2, 8, 5, 6), EPSILON).astype(np.float32)
    exported = torch.export.export(network, (torch.from_numpy(x),))
    for program in (exported, exported.run_decompositions()):
        result = gn_onnx.export(program)
        assert ops(result.model) == ["GroupNormalizationSilu", "GroupNormalizationRelu", "GroupNormalization"]
        with torch.no_grad():
            want = network(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(run(result.model, x, library=True), want, rtol=0, atol=1e-5 * np.abs(want).max())


class Statistics(torch.nn.Module):
    """Mean and rstd are used too."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.ops.aten.native_group_norm(x, weight, None, x.shape[0], 8, 30, 4, EPSILON)


@pytest.mark.parametrize("dynamo", [True, False])
def test_statistics_of_native_group_norm(dynamo: bool) -> None:
    x = sample("ordinary", (2, 8, 5, 6), EPSILON).astype(np.float32)
    tensors = (torch.from_numpy(x), torch.linspace(0.5, 2, 8))
    result = gn_onnx.export(Statistics(), tensors, dynamo=dynamo)
    assert ops(result.model) == ["GroupNormalization"]
    session = gn_onnx.session(ir.to_proto(result.model), providers=["CPUExecutionProvider"])
    feeds = {i.name: t.numpy() for i, t in zip(session.get_inputs(), tensors, strict=True)}
    for got, want in zip(session.run(None, feeds), Statistics()(*tensors), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)


def test_the_tables_for_torch_onnx_export(tmp_path: pathlib.Path) -> None:
    """By hand, without our `export`: the files run with the library, and `fuse` adds bodies and activations."""
    network = Network().eval()
    x = sample("ordinary", (2, 8, 5, 6), EPSILON).astype(np.float32)
    with torch.no_grad():
        want = network(torch.from_numpy(x)).numpy()
    args = (torch.from_numpy(x),)
    table = gn_onnx.translation_table()
    by_dynamo = torch.onnx.export(network, args, dynamo=True, custom_translation_table=table, verbose=False).model_proto
    with gn_onnx.symbolics(17) as opsets:
        torch.onnx.export(network, args, str(tmp_path / "m.onnx"), dynamo=False, opset_version=17, custom_opsets=opsets)
    for proto in (by_dynamo, onnx.load(tmp_path / "m.onnx")):
        model = ir.from_proto(proto)
        assert ops(model) == ["GroupNormalization"] * 3
        assert not model.functions
        got = gn_onnx.session(proto, providers=["CPUExecutionProvider"]).run(None, {proto.graph.input[0].name: x})[0]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
        fused = gn_onnx.fuse(model)
        assert ops(fused.model) == ["GroupNormalizationSilu", "GroupNormalizationRelu", "GroupNormalization"]
        np.testing.assert_allclose(run(fused.model, x, library=False), want, rtol=0, atol=1e-5 * np.abs(want).max())
        assert not gn_onnx.fuse(fused.model).fused


def test_writes_a_file_or_nothing(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "network.onnx"
    gn_onnx.export(Network().eval(), (torch.zeros(1, 8, 2, 2),), path)
    onnx.checker.check_model(str(path), full_check=True)
    with pytest.raises(gn_onnx.GnOnnxError, match="Refuses"):
        gn_onnx.export(Refuses(), (torch.zeros(3),), tmp_path / "none.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]


class Refuses(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1
