"""ONNX Runtime's quantiser and float16 converter on fused models: what they write runs with and without the library."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import pytest
from hand_models import detector
from onnx import TensorProto

import gn_onnx

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort

IMAGES = [{"image": np.random.default_rng(seed).normal(size=(2, 3, 20, 24)).astype(np.float32)} for seed in range(3)]
OURS = ["GroupNormalizationRelu", "GroupNormalization"]


@pytest.fixture
def fused(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "fused.onnx"
    path.write_bytes(gn_onnx.fuse(detector()).model.SerializeToString())
    return path


def run(model: onnx.ModelProto | pathlib.Path, *, library: bool) -> np.ndarray:
    data = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if library:
        gn_onnx.register(options)
    of = ort.InferenceSession(data.SerializeToString(), options, providers=["CPUExecutionProvider"])
    half = of.get_inputs()[0].type == "tensor(float16)"
    (features,) = of.run(None, {"image": IMAGES[0]["image"].astype(np.float16 if half else np.float32)})
    return features.astype(np.float32)


def check(model: onnx.ModelProto, tolerance: float) -> None:
    """Our nodes are there, and both ways of running give what the model gave before, up to `tolerance` of its largest."""
    assert [node.op_type for node in model.graph.node if node.domain == "gn_onnx"] == OURS
    want = run(detector(), library=False)
    for library in (True, False):
        assert np.max(np.abs(run(model, library=library) - want)) <= tolerance * np.max(np.abs(want))


class Images:
    """What the quantiser calibrates with."""

    def __init__(self) -> None:
        self._left = iter(IMAGES)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def test_dynamic_quantisation(fused: pathlib.Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    output = fused.with_name("quantised.onnx")
    quantization.quantize_dynamic(fused, output)
    model = onnx.load(output)
    assert sum(node.op_type == "ConvInteger" for node in model.graph.node) == 2
    check(model, 0.03)  # eight bits: half a step is 0.002 of a convolution's largest value, and statistics amplify it


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("prepared", [False, True])
def test_static_quantisation(form: str, prepared: bool, fused: pathlib.Path) -> None:
    """Also behind the quantiser's own preparation, without its optimisation: that puts the bodies in our nodes' place."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    if prepared:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        quant_pre_process(str(fused), str(fused), skip_optimization=True, skip_symbolic_shape=True)
    output = fused.with_name("quantised.onnx")
    quantization.quantize_static(fused, output, Images(), quant_format=quantization.QuantFormat[form])
    model = onnx.load(output)
    assert sum(node.op_type in ("QLinearConv", "DequantizeLinear") for node in model.graph.node) >= 2
    check(model, 0.03)


def test_the_quantisers_optimisation_puts_bodies_in_place_and_fusing_brings_the_nodes_back(fused: pathlib.Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(fused), str(fused), skip_symbolic_shape=True)
    model = onnx.load(fused)
    assert not any(node.domain == "gn_onnx" for node in model.graph.node)
    check(gn_onnx.fuse(model).model, 1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep_io_types": True},
        {"disable_shape_infer": True},
        {"keep_io_types": True, "op_block_list": OURS},
        {"force_fp16_initializers": True},
    ],
    ids=str,
)
def test_the_float16_converter(options: dict[str, Any], fused: pathlib.Path) -> None:
    """It changes calls and not bodies, and takes every entry of value_info for a tensor of its own."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(fused), **options)
    kept = TensorProto.FLOAT if "op_block_list" in options else TensorProto.FLOAT16
    assert {tensor.data_type for tensor in model.graph.initializer if tensor.name in ("a0/scale", "a0/bias")} <= {kept, 10}
    check(model, 4 * 2.0**-11)


def test_the_float16_converter_before_fusing() -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    check(gn_onnx.fuse(convert_float_to_float16(detector())).model, 4 * 2.0**-11)


def test_written_models_list_no_shape_of_an_initializer_that_the_original_did_not() -> None:
    model = detector()
    names = {tensor.name for tensor in model.graph.initializer}
    written = gn_onnx.fuse(model).model
    assert not {value.name for value in written.graph.value_info} & {tensor.name for tensor in written.graph.initializer}
    assert names  # the original has some, and lists one now
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("w0", TensorProto.FLOAT, [8, 3, 3, 3]))
    assert "w0" in {value.name for value in gn_onnx.fuse(model).model.graph.value_info}
