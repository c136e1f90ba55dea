"""The operators in `onnx.reference`: right to the last bit of float64, and the same as the bodies that models carry."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from forms_reader import FORMS, Form
from helpers import KINDS, group_norm, sample
from onnx import helper
from onnx.reference import ReferenceEvaluator

from gn_onnx import fuse, reference
from gn_onnx.group_norm import ACTIVATIONS, DOMAIN, op_type

DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["channels first", "channels last"])


def call(op: str, x: np.ndarray, channels: int, **attributes: object) -> onnx.ModelProto:
    """One node of ours on inputs X, scale and bias, and no function body."""
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    node = helper.make_node(op, ["X", "scale", "bias"], ["Y"], domain=DOMAIN, **attributes)
    shapes = {"X": x.shape, "scale": [channels], "bias": [channels]}
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([node], "call", inputs, [helper.make_tensor_value_info("Y", kind, x.shape)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)])


def run(model: onnx.ModelProto, *tensors: np.ndarray) -> np.ndarray:
    evaluator = ReferenceEvaluator(model, new_ops=list(reference.OPS))
    return evaluator.run(None, dict(zip(("X", "scale", "bias"), tensors, strict=True)))[0]


def activated(activation: str, y: np.ndarray, alpha: float) -> np.ndarray:
    if activation == "relu":
        return y * (y > 0)
    if activation == "silu":
        return y / (1 + np.exp(-y))
    if activation == "hard_swish":
        return y * np.minimum(np.maximum(y + 3, 0), 6) / 6
    return np.where(y >= 0, y, alpha * y) if activation == "leaky_relu" else y


def test_there_is_one_for_each_operator() -> None:
    names = {op_type(activation, channels_last=last) for activation in ACTIVATIONS for last in (False, True)}
    assert {(op.op_domain, op.__name__) for op in reference.OPS} == {(DOMAIN, name) for name in names}


@LAYOUTS
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_is_the_definition(kind: str, activation: str, channels_last: bool) -> None:
    x = sample(kind, (2, 5, 4, 6) if channels_last else (2, 6, 5, 4))
    scale, bias = sample("ordinary", (6,), seed=1), sample("ordinary", (6,), seed=2)
    alpha = {"alpha": 0.125} if activation == "leaky_relu" else {}
    model = call(op_type(activation, channels_last=channels_last), x, 6, num_groups=3, epsilon=1e-5, **alpha)
    epsilon = float(np.float32(1e-5))  # what the attribute holds
    want = activated(activation, group_norm(x, scale, bias, 3, epsilon, channels_last=channels_last), 0.125)
    np.testing.assert_allclose(run(model, x, scale, bias), want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_is_rounded_once(dtype: type) -> None:
    x, scale, bias = (sample("ordinary", shape, seed=i).astype(dtype) for i, shape in enumerate([(2, 6, 7), (6,), (6,)]))
    y = run(call("GroupNormalization", x, 6, num_groups=2), x, scale, bias)
    assert y.dtype == x.dtype
    want = group_norm(x, scale, bias, 2, float(np.float32(1e-5)))
    assert np.array_equal(y, want.astype(dtype))


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (1, 6, 2, 3, 2), (0, 6, 4), (2, 6, 1, 1)], ids=str)
def test_any_rank_and_an_empty_batch(shape: tuple[int, ...]) -> None:
    x, ones = sample("ordinary", (2, *shape[1:]))[: shape[0]], np.ones(6)
    y = run(call("GroupNormalization", x, 6, num_groups=3), x, ones, 0 * ones)
    assert y.shape == shape
    np.testing.assert_allclose(y, group_norm(x, ones, 0 * ones, 3, 1e-5) if x.size else x, atol=1e-7)


@pytest.mark.parametrize(
    "form", [f for f in FORMS if f.name in ("activation_silu", "function_twice", "if_branch")], ids=lambda f: f.name
)
def test_fused_models_run_with_it_and_without(form: Form) -> None:
    model, feeds = fuse(form.model).model, form.feeds("ordinary")
    want = ReferenceEvaluator(form.model).run(None, feeds)
    for operators in (list(reference.OPS), []):
        for got, expected in zip(ReferenceEvaluator(model, new_ops=operators).run(None, feeds), want, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("num_groups", [0, -2, 4])
def test_groups_that_do_not_fit_are_named(num_groups: int) -> None:
    x = np.ones((2, 6, 5))
    with pytest.raises(ValueError, match=f"6 channels are not divisible by num_groups = {num_groups}"):
        reference.group_norm(x, np.ones(6), np.ones(6), num_groups=num_groups, epsilon=1e-5)


def test_a_scale_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        reference.group_norm(np.ones((2, 6, 5)), np.ones(3), np.ones(6), num_groups=2, epsilon=1e-5)


def test_silu_of_large_values_does_not_overflow() -> None:
    x = np.array([[[-1.0, 1.0]]])
    with np.errstate(over="raise"):
        y = reference.group_norm(x, np.full(1, 1e4), np.zeros(1), num_groups=1, epsilon=0.0, activation="silu")
    np.testing.assert_array_equal(y, [[[0.0, 1e4]]])
