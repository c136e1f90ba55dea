"""Verification: a wrong model is always refused, a right one is not, even where the original is the bad one."""

from __future__ import annotations

import time
from typing import Literal

import numpy as np
import onnx
import pytest
from forms_reader import FORMS, Form
from hand_models import detector, fused_detector, group_norm_body
from onnx import TensorProto, helper, numpy_helper

from gn_onnx import fuse
from gn_onnx.checking import arbitration, end_to_end, float64, inputs, site_inputs, verify, whole_float64
from gn_onnx.checking.site_check import check_sites


def naive_variance_model() -> onnx.ModelProto:
    """GroupNorm with two groups over [2, 8, 32, 32], its variance computed as E[x^2] - E[x]^2."""
    rng = np.random.default_rng(3)
    constants = {
        "split": np.array([0, 2, -1], np.int64), "whole": np.array([2, 8, 32, 32], np.int64),
        "epsilon": np.array(1e-5, np.float32), "scale": rng.uniform(0.5, 2, (8, 1, 1)).astype(np.float32),
        "bias": rng.normal(size=(8, 1, 1)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["r"], "split"),
        helper.make_node("ReduceMean", ["r"], ["m"], "mean", axes=[2]),
        helper.make_node("Mul", ["r", "r"], ["rr"], "square"),
        helper.make_node("ReduceMean", ["rr"], ["q"], "mean_square", axes=[2]),
        helper.make_node("Mul", ["m", "m"], ["mm"], "squared_mean"),
        helper.make_node("Sub", ["q", "mm"], ["v"], "variance"),
        helper.make_node("Add", ["v", "epsilon"], ["ve"], "add_epsilon"),
        helper.make_node("Sqrt", ["ve"], ["std"], "sqrt"),
        helper.make_node("Sub", ["r", "m"], ["c"], "centre"),
        helper.make_node("Div", ["c", "std"], ["n"], "divide"),
        helper.make_node("Reshape", ["n", "whole"], ["b"], "join"),
        helper.make_node("Mul", ["b", "scale"], ["s"], "scale_it"),
        helper.make_node("Add", ["s", "bias"], ["y"], "add_bias"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "naive",
        [value("x", TensorProto.FLOAT, [2, 8, 32, 32])], [value("y", TensorProto.FLOAT, [2, 8, 32, 32])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def fused_naive(epsilon: float = 1e-5, num_groups: int = 2) -> onnx.ModelProto:
    model = naive_variance_model()
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    del model.graph.node[:]
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(constants[n].ravel(), n) for n in ("scale", "bias"))
    node = helper.make_node(
        "GroupNormalization", ["x", "scale", "bias"], ["y"], "gn",
        domain="gn_onnx", num_groups=num_groups, epsilon=epsilon,
    )  # fmt: skip
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("gn_onnx", 1))
    model.functions.append(group_norm_body())
    return model


def test_a_right_model_passes() -> None:
    original = detector()
    result = verify.verify(original, fused_detector(original))
    assert result.ok, result.reason
    assert [site.status for site in result.sites] == ["equal", "equal"]
    assert {comparison.data.split(",")[0] for comparison in result.outputs} == set(inputs.KINDS)


@pytest.mark.parametrize("wrong", [{"epsilon": 1.01e-5}, {"epsilon": 0.0}, {"scale": 1.00001}, {"scale": -1.0}])
def test_a_wrong_model_is_refused_with_the_site_named(wrong: dict[str, float]) -> None:
    original = detector()
    result = verify.verify(original, fused_detector(original, **wrong))
    assert not result.ok
    assert "gn0/GroupNorm" in result.reason


def test_a_wrong_wire_elsewhere_is_refused() -> None:
    original = detector()
    fused = fused_detector(original)
    relu = next(node for node in fused.graph.node if node.op_type == "Relu")
    relu.op_type = "Sigmoid"
    result = verify.verify(original, fused)
    assert not result.ok
    assert "'features' differs" in result.reason


def test_a_good_model_is_not_refused_because_the_original_is_inaccurate() -> None:
    original, fused = naive_variance_model(), fused_naive()
    result = verify.verify(original, fused)
    assert result.ok, result.reason
    assert any("the original is" in note for note in result.notes)


def test_neither_is_a_good_large_model_that_float64_cannot_run_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arbitration.whole_float64, "evaluate", lambda *_: None)
    result = verify.verify(naive_variance_model(), fused_naive())
    assert result.ok, result.reason
    assert any("inaccurate at 'y'" in note for note in result.notes)


def test_neither_is_a_good_model_on_a_machine_where_time_has_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arbitration.whole_float64, "evaluate", lambda *_: None)
    original, fused = naive_variance_model(), fused_naive()
    sites = check_sites(original, fused, input_shapes=inputs.input_shapes(original, None))
    found = end_to_end.Findings()
    end_to_end.compare_end_to_end(original, fused, list(sites), None, None, time.monotonic() - 1, found)
    assert any(output.explained for output in found.outputs)
    assert found.refusals == []


@pytest.mark.parametrize("wrong", [{"epsilon": 2e-5}, {"num_groups": 1}, {"num_groups": 4}])
def test_a_wrong_one_is_refused_although_the_original_is_inaccurate(wrong: dict[str, float]) -> None:
    assert not verify.verify(naive_variance_model(), fused_naive(**wrong)).ok


def test_a_model_that_onnx_runtime_cannot_run_is_checked_by_its_sites() -> None:
    original = detector()
    original.graph.node.append(helper.make_node("Unknown", ["features"], ["out"], "unknown", domain="nobody"))
    original.opset_import.append(helper.make_opsetid("nobody", 1))
    original.graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, None))
    result = verify.verify(original, fused_detector(original))
    assert result.ok
    assert any("does not run" in note for note in result.notes)
    assert not verify.verify(original, fused_detector(original, epsilon=1e-3)).ok


def test_random_groups_hold_the_three_kinds() -> None:
    x = site_inputs.random_groups((2, 6, 50, 50), 3, 1e-5, np.random.default_rng(0)).reshape(6, -1)
    assert np.all(x[1::3].std(axis=1) < 0.02)
    assert np.all(np.abs(x[2::3].mean(axis=1)) > 9e3)


def test_the_formula_is_pytorch_s() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, scale, bias = rng.normal(size=(2, 6, 5, 4)), rng.normal(size=6), rng.normal(size=6)
    mine = float64.group_norm(x, scale, bias, num_groups=3, epsilon=1e-3, activation="silu")
    tensors = [torch.from_numpy(array) for array in (x, scale, bias)]
    theirs = torch.nn.functional.silu(torch.nn.functional.group_norm(tensors[0], 3, *tensors[1:], 1e-3))
    np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-12, atol=1e-12)
    last = float64.group_norm(np.moveaxis(x, 1, -1), scale, bias, num_groups=3, epsilon=1e-3, channels_last=True)
    plain = float64.group_norm(x, scale, bias, num_groups=3, epsilon=1e-3)
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), plain)


def test_equal_casts_of_one_value_are_one_input() -> None:
    """What block-wise float16 conversion leaves: several casts of the same tensor, of which fusing keeps one."""
    original, fused = naive_variance_model(), fused_naive()
    for model in (original, fused):
        model.graph.input[0].name = "raw"
        casts = [helper.make_node("Cast", ["raw"], [name], f"cast to {name}", to=TensorProto.FLOAT) for name in ("x", "x2")]
        nodes = [*casts, *model.graph.node] if model is original else [casts[0], *model.graph.node]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
    centre = next(node for node in original.graph.node if node.name == "split")
    centre.input[0] = "x2"
    result = verify.verify(original, fused)
    assert [site.status for site in result.sites] == ["equal"]
    assert result.ok, result.reason


def test_a_dangling_name_in_the_fused_model_is_refused_even_without_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify.ort_runner, "is_installed", lambda: False)
    original = detector()
    fused = fused_detector(original)
    assert verify.verify(original, fused).ok
    del fused.graph.node[0]
    result = verify.verify(original, fused)
    assert not result.ok
    assert "computed by no node" in result.reason


def test_without_onnx_runtime_another_change_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify.ort_runner, "is_installed", lambda: False)
    original = detector()
    fused = fused_detector(original)
    next(node for node in fused.graph.node if node.op_type == "Relu").op_type = "Sigmoid"
    assert not verify.verify(original, fused).ok


def test_a_model_too_large_to_run_is_checked_by_its_sites() -> None:
    original = detector()
    fused = fused_detector(original)
    big = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[1 << 29], data_location=TensorProto.EXTERNAL)
    big.external_data.add(key="location", value="big.data")  # no length: two gigabytes by its shape
    for model in (original, fused):
        model.graph.initializer.append(big)
        model.graph.node.append(helper.make_node("ReduceMax", ["big"], ["largest"], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info("largest", TensorProto.FLOAT, []))
    result = verify.verify(original, fused)
    assert result.ok, result.reason
    assert result.outputs == ()
    assert any("2.1 GB of weights" in note for note in result.notes)


def test_functions_may_stand_before_those_that_they_call() -> None:
    """ONNX asks for no order, onnx.reference does: every site is still checked, and the whole model evaluated."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    original, fused = naive_variance_model(), fused_naive()
    for model in (original, fused):
        for name, callee, domain in (("outer", "inner", "local"), ("inner", "Identity", "")):
            node = helper.make_node(callee, ["a"], ["b"], domain=domain)
            model.functions.append(helper.make_function("local", name, ["a"], ["b"], [node], opsets))
        model.graph.node.append(helper.make_node("outer", ["y"], ["z"], "call", domain="local"))
        model.graph.output[0].name = "z"
        model.opset_import.append(helper.make_opsetid("local", 1))
    found = verify.verify(original, fused)
    assert found.ok, found.reason
    assert [site.status for site in found.sites] == ["equal"]
    feeds = inputs.make_inputs(original, "ordinary")
    assert whole_float64.evaluate(original, feeds) is not None


_BODIES = ("If", "Loop", "Scan")


def _is_unlike_most(form: Form) -> bool:
    """Whether a site is somewhere else than in the main graph, or needs more than ONNX's own operators to be checked."""
    odd = any(node.op_type in _BODIES or node.domain not in ("", "ai.onnx") for node in form.model.graph.node)
    return odd or form.model.ir_version < 4 or form.name.startswith(("sample_", "slices_", "function_"))


@pytest.mark.parametrize("target", ["plugin", "onnx"])
@pytest.mark.parametrize("form", [f for f in FORMS if f.counts[-1:] > (0,) and _is_unlike_most(f)], ids=lambda f: f.name)
def test_no_form_is_refused(form: Form, target: Literal["plugin", "onnx"]) -> None:
    verification = verify.verify(form.model, fuse(form.model, target=target).model)
    assert verification.ok, (verification.reason, verification.notes)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["plugin", "onnx"])
def test_no_form_at_all_is_refused(target: Literal["plugin", "onnx"]) -> None:
    for form in FORMS:
        verification = verify.verify(form.model, fuse(form.model, target=target).model)
        assert verification.ok, (form.name, verification.reason, verification.notes)
