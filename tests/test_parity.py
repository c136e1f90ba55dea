"""Comparisons, tolerances, generated inputs and the parity report."""

from __future__ import annotations

import json
import pathlib

import ml_dtypes
import numpy as np
import onnx
import pytest
from hand_models import detector, fused_detector
from onnx import TensorProto, helper

import gn_onnx
from gn_onnx.checking import inputs, ort_runner, tolerances
from gn_onnx.checking.comparison import compare
from gn_onnx.errors import GnOnnxError


def test_check_parity_takes_models_of_every_kind(tmp_path: pathlib.Path) -> None:
    original = detector()
    path = tmp_path / "detector.onnx"
    path.write_bytes(original.SerializeToString())
    fused = fused_detector(original)
    assert gn_onnx.check_parity(path, fused).ok
    assert gn_onnx.check_parity(original, gn_onnx.fuse(original).model).ok
    assert gn_onnx.check_parity(str(path), gn_onnx.fuse(onnx_ir(original)).model).ok


def onnx_ir(model: onnx.ModelProto):
    import onnx_ir as ir

    return ir.from_proto(model)


def test_a_wrong_model_is_not_ok_and_the_worst_output_is_named() -> None:
    original = detector()
    report = gn_onnx.check_parity(original, fused_detector(original, epsilon=1e-2))
    assert not report.ok
    assert report.worst.name == "features"
    assert json.loads(json.dumps(report.to_json()))["ok"] is False


def test_own_inputs_and_tolerance() -> None:
    original = detector()
    image = np.random.default_rng(0).normal(size=(1, 3, 9, 7)).astype(np.float32)
    wrong = fused_detector(original, scale=1.001)
    assert not gn_onnx.check_parity(original, wrong, inputs={"image": image}).ok
    assert gn_onnx.check_parity(original, wrong, inputs=[{"image": image}], tolerance=0.1).ok


def test_other_outputs_are_an_error() -> None:
    other = detector()
    other.graph.output[0].name = "a0"
    with pytest.raises(GnOnnxError, match="outputs were"):
        gn_onnx.check_parity(detector(), other)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_ulp_is_the_distance_to_the_next_number(dtype: type) -> None:
    one = np.ones(4, dtype)
    following = one + np.array(2 * tolerances.UNIT[tolerances.name_of(np.dtype(dtype))], dtype)
    assert compare(one, following, name="y", against="original").ulp == pytest.approx(1)


def test_numbers_of_a_comparison() -> None:
    comparison = compare(np.array([3.0, 4.0]), np.array([3.0, 4.5]), name="y", against="original")
    assert comparison.max_abs == 0.5
    assert comparison.rms == pytest.approx(0.5 / 2**0.5)
    assert comparison.relative == 0.125
    assert not comparison.ok


@pytest.mark.parametrize(
    ("expected", "actual", "reason"),
    [
        ([1.0, np.nan], [1.0, 2.0], "NaN at 1 and 0"),
        ([1.0, 2.0], [1.0, np.inf], "infinity at 0 and 1"),
        ([1.0, 2.0], [[1.0, 2.0]], "shape"),
        (["a"], ["b"], "not numbers"),
    ],
)
def test_what_cannot_be_compared_is_not_ok(expected: list, actual: list, reason: str) -> None:
    comparison = compare(np.array(expected), np.array(actual), name="y", against="original")
    assert not comparison.ok
    assert reason in comparison.reason


def test_equal_nans_and_empty_outputs_are_equal() -> None:
    for array in (np.array([np.nan, 1.0]), np.zeros((0, 3)), np.array([True]), np.array([2, 3])):
        assert compare(array, array, name="y", against="original").ok


def test_tolerance_grows_with_the_condition_of_x_only() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 100))
    assert tolerances.conditioned(1e-6, x, 2) == 1e-6
    assert tolerances.conditioned(1e-6, x + 1e3, 2) == pytest.approx(1e-3, rel=0.2)


def test_inputs_are_of_three_kinds_and_the_same_every_time() -> None:
    model = detector()
    made = {kind: inputs.make_inputs(model, kind)["image"] for kind in inputs.KINDS}
    assert {array.shape for array in made.values()} == {(2, 3, 64, 64)}
    assert made["low variance"].std() < 0.01
    assert made["large mean"].mean() > 9e3
    np.testing.assert_array_equal(made["ordinary"], inputs.make_inputs(model, "ordinary")["image"])


def test_one_name_is_one_size_and_an_override_spreads() -> None:
    model = detector()
    second = helper.make_tensor_value_info("other", TensorProto.INT64, ["H", "K"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["N", "H"])
    model.graph.input.extend([second, mask])
    shapes = inputs.input_shapes(model, {"image": (1, 3, 40, 48)})
    assert shapes["other"][0] == 40
    assert shapes["attention_mask"] == (1, 40)
    made = inputs.make_inputs(model, "ordinary", shapes={"image": (1, 3, 40, 48)})
    assert set(np.unique(made["other"])) <= {0, 1}
    assert np.all(made["attention_mask"] == 1)


def test_huge_and_unusual_inputs_are_errors() -> None:
    model = detector()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40
    with pytest.raises(GnOnnxError, match="too large"):
        inputs.make_inputs(model, "ordinary")
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(GnOnnxError, match="not a tensor"):
        inputs.make_inputs(model, "ordinary")


def test_bfloat16_goes_in_and_comes_out() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g",
        [value("x", TensorProto.BFLOAT16, [2, 2])], [value("y", TensorProto.BFLOAT16, [2, 2])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    feeds = inputs.make_inputs(model, "ordinary")
    out = ort_runner.Session(model).run(feeds)["y"]
    assert out.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(out.view(np.uint16), feeds["x"].view(np.uint16))


def test_an_inaccurate_original_is_not_held_against_the_fused_model() -> None:
    from test_verify import fused_naive, naive_variance_model

    report = gn_onnx.check_parity(naive_variance_model(), fused_naive())
    assert report.ok, str(report)
    assert any(comparison.explained for comparison in report.comparisons)
    assert not gn_onnx.check_parity(naive_variance_model(), fused_naive(epsilon=1e-3)).ok
