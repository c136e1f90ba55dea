"""The operators in `onnx.reference`: right to the last bit of float64, and the same as the bodies that models carry."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from forms_reader import FORMS, Form
from helpers import KINDS, group_norm, sample
from onnx import helper
from onnx.reference import ReferenceEvaluator

from gn_onnx import fuse, reference
from gn_onnx.group_norm import ACTIVATIONS, DOMAIN, op_type
from gn_onnx.rewriting.functions import function_body

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


OPERATORS = [(activation, last) for activation in ACTIVATIONS for last in (False, True)]
UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53, np.float16: 2.0**-11, ml_dtypes.bfloat16: 2.0**-8}


@pytest.mark.parametrize("opset", [9, 13, 17, 21])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_all_operators_in_all_types_and_by_their_bodies_alone(dtype: type, opset: int) -> None:
    """Before opset 12 a body reads its attributes by operators that the evaluator does not give them to."""
    for activation, last in OPERATORS:
        shapes = [(2, 5, 4, 6) if last else (2, 6, 5, 4), (6,), (6,)]
        x, scale, bias = (sample("ordinary", shape, seed=i).astype(dtype) for i, shape in enumerate(shapes))
        attributes = {"num_groups": 3, "epsilon": 1e-5, "stash_type": 1}
        attributes |= {"alpha": 0.125} if activation == "leaky_relu" else {}
        model = call(op_type(activation, channels_last=last), x, 6, **attributes)
        model.opset_import[0].version = opset
        y = run(model, x, scale, bias)
        assert y.dtype == x.dtype
        normal = group_norm(x, scale, bias, 3, float(np.float32(1e-5)), channels_last=last)
        want = activated(activation, normal, 0.125)
        np.testing.assert_allclose(y.astype(np.float64), want, rtol=1.01 * UNIT[dtype], atol=1e-7)
        if opset < 12 and (activation == "leaky_relu" or dtype == np.float64):
            continue
        kind = ir.DataType(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        body = function_body(activation, channels_last=last, dtypes=frozenset({kind}), opset=opset)
        model.functions.append(ir.serde.serialize_function(body))
        alone = ReferenceEvaluator(model).run(None, {"X": x, "scale": scale, "bias": bias})[0]
        assert alone.dtype == x.dtype
        limit = 8 * UNIT[dtype] * np.abs(want).max()
        np.testing.assert_allclose(alone.astype(np.float64), want, rtol=0, atol=max(limit, 1e-7))


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


QUICK = ("activation_silu", "activation_leaky_relu", "function_twice", "function_in_function", "if_branch", "nhwc_paper")
BEYOND_THE_EVALUATOR = ("function_default_epsilon",)
"""Forms that onnx.reference itself does not run: it knows no default values of a function's attributes."""


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, id=form.name, marks=() if form.name in QUICK else pytest.mark.slow)
        for form in FORMS
        if form.counts[-1:] != (0,) and form.counts and form.name not in BEYOND_THE_EVALUATOR
    ],
)
def test_fused_models_run_with_it_and_without(form: Form) -> None:
    result, feeds = fuse(form.model), form.feeds("ordinary")
    want = ReferenceEvaluator(form.model).run(None, feeds)
    kinds = {value.type.tensor_type.elem_type for value in (*form.model.graph.input, *form.model.graph.output)}
    casts = [node for node in form.model.graph.node if node.op_type in ("Cast", "CastLike")]
    half = casts or kinds & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    for operators in (list(reference.OPS), []):
        for got, expected in zip(ReferenceEvaluator(result.model, new_ops=operators).run(None, feeds), want, strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=2e-2 if half else 1e-5)


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
