"""The fast evaluator means the same as ONNX's own reference evaluator, in float64."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from evaluate import Evaluator, Unsupported
from generate import group_norm
from helpers import difference, meant, sample
from onnx import helper
from onnx.reference import ReferenceEvaluator

from gn_onnx.checking.float64 import graph_to_float64


def _by_onnx(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph_to_float64(wide.graph)
    evaluator = ReferenceEvaluator(wide)
    given = {name: array.astype(np.float64) for name, array in feeds.items()}
    return dict(zip(evaluator.output_names, evaluator.run(None, given), strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_agrees_with_onnx_on_generated_graphs(seed: int) -> None:
    case = group_norm(random.Random(seed))
    if any(node.op_type == "BatchNormalization" for node in case.model.graph.node):
        return  # onnx's reference of BatchNormalization in training mode takes rank 4 only
    feeds = {"x": sample("ordinary", case.truth.x_shape), **case.inputs}
    assert difference(Evaluator(case.model).run(feeds), _by_onnx(case.model, feeds)) < 1e-9


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        (helper.make_node("Split", ["a"], ["y", "z"], axis=1, num_outputs=2), [np.arange(10.0).reshape(2, 5)]),
        (helper.make_node("Slice", ["a", "b", "c", "d", "e"], ["y"]),
         [np.arange(10.0).reshape(2, 5), np.array([-1]), np.array([-9]), np.array([1]), np.array([-2])]),
        (helper.make_node("Gather", ["a", "b"], ["y"], axis=1),
         [np.arange(10.0).reshape(2, 5), np.array([[0, -1], [3, 3]])]),
        (helper.make_node("Div", ["a", "b"], ["y"]), [np.array([7, -7, 6]), np.array([2, 2, -3])]),
        (helper.make_node("Flatten", ["a"], ["y"], axis=2), [np.arange(12.0).reshape(2, 3, 2)]),
        (helper.make_node("Tile", ["a", "b"], ["y"]), [np.arange(6.0).reshape(2, 3), np.array([2, 1])]),
        (helper.make_node("LayerNormalization", ["a", "b"], ["y"], axis=-2),
         [np.arange(12.0).reshape(2, 3, 2) ** 2, np.ones((3, 2))]),
        (helper.make_node("Clip", ["a", "", "b"], ["y"]), [np.arange(6.0), np.array(3.0)]),
        (helper.make_node("ReduceL2", ["a", "b"], ["y"], keepdims=0), [np.arange(6.0).reshape(2, 3), np.array([-1])]),
        (helper.make_node("HardSigmoid", ["a"], ["y"], alpha=0.3), [np.arange(-3.0, 3.0)]),
        (helper.make_node("Shape", ["a"], ["y"], start=-2), [np.zeros((2, 3, 4))]),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)  # fmt: skip
def test_agrees_with_onnx_on_one_operator(node: onnx.NodeProto, inputs: list[np.ndarray]) -> None:
    given = dict(zip([name for name in node.input if name], inputs, strict=True))
    infos = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in given.items()]
    kind = 7 if inputs[0].dtype.kind == "i" or node.op_type == "Shape" else 11
    outputs = [helper.make_tensor_value_info(name, kind, None) for name in node.output]
    model = helper.make_model(helper.make_graph([node], "one", infos, outputs), opset_imports=[helper.make_opsetid("", 20)])
    want = dict(zip(node.output, ReferenceEvaluator(model).run(None, given), strict=True))
    assert difference(Evaluator(model).run(given), want) < 1e-12


def test_an_operator_that_is_not_known_is_said() -> None:
    graph = helper.make_graph([helper.make_node("Det", ["x"], ["y"])], "g", [], [])
    with pytest.raises(Unsupported, match="Det"):
        Evaluator(helper.make_model(graph))


@pytest.mark.parametrize(
    ("value", "exact"), [(1 / 12, 1 / 12), (12**0.5, 12**0.5), (-1 / 7, -1 / 7), (0.0834, None), (0.999, None)]
)
def test_rounded_constants_are_read_as_they_were_meant(value: float, exact: float | None) -> None:
    read = meant(np.asarray(value, np.float32))
    assert read == (np.float64(np.float32(value)) if exact is None else exact)
