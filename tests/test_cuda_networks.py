"""What the GPU script times end to end, without a GPU: how networks are prepared, drawn, run and compared."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any

import numpy as np
import onnx
import pytest
from test_bench_cuda import host_as_device  # noqa: F401  a fixture

import gn_onnx
from gn_onnx.benchmarks import cuda_end_to_end, drawn_weights
from gn_onnx.benchmarks.cuda_end_to_end import FREE, FUSED, ORIGINAL, VARIANTS
from gn_onnx.errors import GnOnnxError
from gn_onnx.group_norm import DOMAIN

pytestmark = [pytest.mark.torch, pytest.mark.ort]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A small network with everything the real ones have: a shortcut, SiLU, a product, an integer input."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from models import gpu_models

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 64, 3, padding=1)
            self.norms = torch.nn.ModuleList(torch.nn.GroupNorm(8, 64) for _ in range(2))
            self.convolutions = torch.nn.ModuleList(torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(2))
            self.last = torch.nn.GroupNorm(4, 64)
            self.product = torch.nn.Linear(64, 128)

        def forward(self, image: Any, timestep: Any) -> Any:
            x = self.first(image)
            for norm, convolution in zip(self.norms, self.convolutions, strict=True):
                x = x + convolution(torch.nn.functional.silu(norm(x)))
            x = self.last(x) * torch.cos(timestep.to(x.dtype) / 100)
            return self.product(x.flatten(2).transpose(1, 2))

    inputs = {"image": torch.zeros((2, 3, 12, 12), dtype=torch.bfloat16), "timestep": torch.tensor(500)}
    out = tmp_path_factory.mktemp("networks")
    gpu_models.write("small", out, gpu_models.export(gpu_models.Source(Small, inputs, ("y",))))
    return out


def _library() -> pathlib.Path:
    return pathlib.Path(gn_onnx.library_path())


def test_files_are_small_and_differ_in_group_norm_only(folder: pathlib.Path) -> None:
    models = {v: onnx.load_model(folder / f"small.{v}.onnx", load_external_data=False) for v in VARIANTS}
    weights = {v: {t.name: t.doc_string for t in m.graph.initializer if t.external_data} for v, m in models.items()}
    assert len(weights[ORIGINAL]) == 3  # two convolutions and the product; they are alike and stay apart
    assert weights[ORIGINAL] == weights[FUSED] == weights[FREE]
    assert drawn_weights.total_bytes(models[ORIGINAL]) == 2 * (2 * 64 * 64 * 9 + 64 * 128)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000
    operators = {v: [node.op_type for node in m.graph.node if node.domain == DOMAIN] for v, m in models.items()}
    assert operators[FUSED] == ["GroupNormalizationSilu", "GroupNormalizationSilu", "GroupNormalization"]
    assert operators[ORIGINAL] == operators[FREE] == []
    free = [node.op_type for node in models[FREE].graph.node]
    assert "InstanceNormalization" not in free and "Sigmoid" not in free
    assert free.count("Conv") == 3


def test_weights_are_the_same_each_time_and_as_described(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = onnx.load_model(folder / "small.original.onnx", load_external_data=False)
    written = []
    for name in "ab":
        (tmp_path / name).mkdir()
        drawn_weights.draw(model, tmp_path / name)
        written.append((tmp_path / name / drawn_weights.LOCATION).read_bytes())
    assert written[0] == written[1]
    values = np.frombuffer(written[0], np.float16)
    assert np.isfinite(values).all()
    first = values[: 64 * 64 * 9].astype(np.float64)
    second = values[64 * 64 * 9 : 2 * 64 * 64 * 9].astype(np.float64)
    assert first.std() == pytest.approx((0.5 / (64 * 9)) ** 0.5, rel=0.02)
    assert not np.array_equal(first, second)


def test_dry_run_compares_the_outputs(folder: pathlib.Path) -> None:
    (network,) = cuda_end_to_end.run(folder, _library(), time.monotonic() + 60, on_device=False)
    assert network.refused == {}
    assert network.group_norms == 3
    assert network.error is not None and network.error < 0.01
    assert not network.wrong
    assert "small" in cuda_end_to_end.table([network])
    assert json.dumps(network.to_json())


def test_timing_from_end_to_end(folder: pathlib.Path, host_as_device: None) -> None:  # noqa: F811
    (network,) = cuda_end_to_end.run(folder, _library(), time.monotonic() + 60, on_device=True)
    assert network.refused == {}
    assert network.times.keys() == set(VARIANTS)
    assert network.error is not None and network.error < 0.01
    assert json.dumps(network.to_json())


def test_a_fused_model_that_computes_something_else_has_no_time(
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    host_as_device: None,  # noqa: F811
) -> None:
    for path in folder.iterdir():
        model = onnx.load_model(path, load_external_data=False)
        if FUSED in path.name:
            for node in model.graph.node:
                for attribute in node.attribute:
                    if node.domain == DOMAIN and attribute.name == "num_groups":
                        attribute.i = 1
        onnx.save_model(model, tmp_path / path.name)
    (network,) = cuda_end_to_end.run(tmp_path, _library(), time.monotonic() + 60, on_device=True)
    assert network.wrong
    assert "off by" in network.refused[FUSED]
    assert FUSED not in network.times


def test_no_time_and_no_networks(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (network,) = cuda_end_to_end.run(folder, _library(), time.monotonic(), on_device=False)
    assert set(network.refused.values()) == {"no time left"}
    assert "no time left" in cuda_end_to_end.table([network])
    with pytest.raises(GnOnnxError, match="gpu-models"):
        cuda_end_to_end.run(tmp_path, _library(), time.monotonic() + 60, on_device=False)
