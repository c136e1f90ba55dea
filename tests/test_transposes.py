"""A GroupNorm, and its activation, between two Transposes: one node on the data as it lies there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hand_models import group_norm_chain
from helpers import difference, evaluator, group_norm_nodes, run_ort, sample
from onnx import TensorProto, helper

from gn_onnx import fuse

CHANNELS, GROUPS = 6, 3
TO_FIRST = {3: [0, 2, 1], 4: [0, 3, 1, 2], 5: [0, 4, 1, 2, 3]}
TO_LAST = {3: [0, 2, 1], 4: [0, 2, 3, 1], 5: [0, 2, 3, 4, 1]}
SHAPE = {3: (2, 7, 6), 4: (2, 4, 5, 6), 5: (2, 2, 3, 4, 6)}


def between(
    before: list[int], after: list[int], activation: str = "Sigmoid", more: tuple[onnx.NodeProto, ...] = (), *outputs: str
) -> onnx.ModelProto:
    """x -> Transpose -> GroupNorm -> activation -> Transpose -> y; x has the shape SHAPE of its rank."""
    rank = len(before)
    nodes, initializers = group_norm_chain("gn", "t", "z", CHANNELS, GROUPS, rank)
    nodes.insert(0, helper.make_node("Transpose", ["x"], ["t"], "first", perm=before))
    if activation == "Sigmoid":
        nodes += [helper.make_node("Sigmoid", ["z"], ["i"], "i"), helper.make_node("Mul", ["z", "i"], ["a"], "a")]
    else:
        nodes.append(helper.make_node(activation, ["z"], ["a"], "a"))
    nodes += [helper.make_node("Transpose", ["a"], ["y"], "last", perm=after), *more]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", *outputs)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE[rank])]
    model = helper.make_model(
        helper.make_graph(nodes, "between", inputs, values, initializers), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    inferred = onnx.shape_inference.infer_shapes(model)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    return model


def operators(model: onnx.ModelProto, shape: tuple[int, ...]) -> list[str]:
    """What the fused model consists of, once it computes the same."""
    fused = fuse(model).model
    onnx.checker.check_model(fused, full_check=True)
    for kind in ("ordinary", "low variance"):
        feeds = {"x": sample(kind, shape)}
        assert difference(evaluator(fused).run(feeds), evaluator(model).run(feeds)) < 1e-6
    return [node.op_type for node in fused.graph.node]


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize(("activation", "suffix"), [("Sigmoid", "Silu"), ("Relu", "Relu"), ("LeakyRelu", "LeakyRelu")])
def test_channels_last_data_stays_channels_last(activation: str, suffix: str, rank: int) -> None:
    model = between(TO_FIRST[rank], TO_LAST[rank], activation)
    assert operators(model, SHAPE[rank]) == [f"GroupNormalizationChannelsLast{suffix}"]
    (record,) = fuse(model).fused
    assert record.channels_last
    assert (record.x.name, record.output.name) == ("x", "y")
    assert (record.node_names[0], record.node_names[-1]) == ("first", "last")


KERAS_BETWEEN_CONVOLUTIONS = """
<ir_version: 8, opset_import: ["" : 17]>
between (float[2,6,4,5] x) => (float[2,6,4,5] y)
<int64[5] split = {2, 4, 5, 3, 2}, int64[4] shape = {2, 4, 5, 6}, float eps = {0.00001},
 float[6] gamma = {0.5, 1.5, -1.0, 2.0, 0.75, 1.25}, float[6] beta = {0.1, -0.2, 0.3, 0.0, -0.5, 0.6}>
{
  t = Transpose <perm = [0, 2, 3, 1]> (x)
  g = Reshape (t, split)
  m = ReduceMean <axes = [1, 2, 4]> (g)
  d = Sub (g, m)
  p = Mul (d, d)
  v = ReduceMean <axes = [1, 2, 4]> (p)
  e = Add (v, eps)
  r = Sqrt (e)
  q = Div (d, r)
  n = Reshape (q, shape)
  s = Mul (n, gamma)
  z = Add (s, beta)
  a = Relu (z)
  y = Transpose <perm = [0, 3, 1, 2]> (a)
}
"""


def test_a_channels_last_layer_in_a_model_that_is_channels_first() -> None:
    model = onnx.parser.parse_model(KERAS_BETWEEN_CONVOLUTIONS)
    assert operators(model, (2, 6, 4, 5)) == ["GroupNormalizationRelu"]


def test_the_order_of_the_spatial_axes_does_not_matter() -> None:
    model = between([0, 3, 2, 1], [0, 3, 2, 1])
    assert operators(model, SHAPE[4]) == ["GroupNormalizationChannelsLastSilu"]


def test_channels_last_values_that_others_use_stay() -> None:
    more = (helper.make_node("Neg", ["t"], ["negative"], "n"),)
    model = between(TO_FIRST[4], TO_LAST[4], "Relu", more, "negative")
    assert operators(model, SHAPE[4]) == ["Transpose", "GroupNormalizationChannelsLastRelu", "Neg"]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (between(TO_FIRST[4], [0, 3, 2, 1]), "the second is not the inverse of the first"),
        (between([1, 3, 0, 2], [2, 0, 3, 1]), "the batch moves"),
        (between([0, 3, 1, 2], [0, 2, 3, 1], "Relu", (helper.make_node("Neg", ["a"], ["b"], "n"),), "b"), "other use"),
        (between(TO_FIRST[4], TO_LAST[4], "Relu", (), "a"), "an output of the graph"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_otherwise_the_transposes_stay(model: onnx.ModelProto, why: str) -> None:
    if why == "the batch moves":
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 6
        model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 2
        model.graph.node[0].attribute[0].ints[:] = [3, 0, 1, 2]
        model.graph.node[-1].attribute[0].ints[:] = [1, 2, 3, 0]
        model = onnx.shape_inference.infer_shapes(_without_output_shapes(model))
    shape = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    found = operators(model, shape)
    assert found.count("Transpose") == 2
    assert not any("ChannelsLast" in op for op in found)


def _without_output_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model


def test_the_transposes_of_the_standard_operator_stay() -> None:
    """ONNX's GroupNormalization has no layout of its own."""
    model = fuse(between(TO_FIRST[4], TO_LAST[4]), target="onnx").model
    assert [node.op_type for node in model.graph.node] == ["Transpose", "GroupNormalization", "Sigmoid", "Mul", "Transpose"]


@pytest.mark.ort
def test_runs_on_the_library_and_without() -> None:
    pytest.importorskip("onnxruntime")
    model = between(TO_FIRST[4], TO_LAST[4])
    fused = fuse(model).model
    assert len(group_norm_nodes(fused)) == 1
    feeds = {"x": sample("ordinary", SHAPE[4]).astype(np.float32)}
    want = run_ort(model, feeds)["y"]
    for library in (False, True):
        np.testing.assert_allclose(run_ort(fused, feeds, library=library)["y"], want, atol=1e-5)
