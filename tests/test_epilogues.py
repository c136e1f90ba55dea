"""Activations behind a GroupNorm: every spelling is taken in, nothing that only looks like one is."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from evaluate import Unsupported
from helpers import difference, evaluator, sample

from gn_onnx import fuse

MODEL = """
<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1, "own" : 1]>
model (float[2,8,3,4] x) => ({outputs})
<int64[3] split = {{0, 4, -1}}, float[4] ones = {{1, 1, 1, 1}}, float[4] zeros = {{0, 0, 0, 0}},
 float[8,1,1] gamma = {{0.5, 1.5, -1.0, 2.0, 0.75, 1.25, -0.5, 1.0}},
 float[8,1,1] beta = {{0.1, -0.2, 0.3, 0.0, -0.5, 0.6, 0.7, -0.8}},
 float zero = {{0.0}}, float one = {{1.0}}, float minus = {{-1.0}}, float three = {{3.0}}, float six = {{6.0}},
 float sixth = {{0.16666667}}, float half = {{0.5}}, float tenth = {{0.1}}, float two = {{2.0}},
 float[1,1,1,1,1] five_axes = {{0.0}}, float[8,1,1] slopes = {{0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1}},
 float[8,1,1] other_slopes = {{0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1}}, float inf = {{3.4e38}}>
{{
  g = Reshape (x, split)
  n = InstanceNormalization <epsilon: float = 0.00001> (g, ones, zeros)
  s = Shape (x)
  b = Reshape (n, s)
  m = Mul (b, gamma)
  z = Add (m, beta)
  {nodes}
}}
{functions}
"""

SILU_FUNCTION = '<domain: "own", opset_import: ["" : 17]> silu (a) => (b) { c = Sigmoid (a) b = Mul (a, c) }'
NESTED_FUNCTION = (
    SILU_FUNCTION + '<domain: "own", opset_import: ["" : 17, "own" : 1]> module (a) => (b) { b = own.silu (a) }'
)
ENDLESS_FUNCTION = '<domain: "own", opset_import: ["" : 17, "own" : 1]> silu (a) => (b) { b = own.silu (a) }'

TAKEN = {
    "Relu": [
        "y = Relu (z)",
        "y = Clip (z, zero)",
        "y = Clip (z, zero, inf)",
        "y = Max (z, zero)",
        "y = Max (zero, z)",
        "i = Identity (z) y = Relu (i)",
    ],
    "Silu": [
        "i = Sigmoid (z) y = Mul (z, i)",
        "i = Sigmoid (z) y = Mul (i, z)",
        "y = com.microsoft.QuickGelu <alpha: float = 1.0> (z)",
        "a = Neg (z) e = Exp (a) d = Add (e, one) y = Div (z, d)",
        "a = Mul (minus, z) e = Exp (a) d = Add (one, e) y = Div (z, d)",
        "a = Neg (z) e = Exp (a) d = Add (e, one) i = Reciprocal (d) y = Mul (z, i)",
        "a = Neg (z) e = Exp (a) d = Add (e, one) i = Div (one, d) y = Mul (i, z)",
    ],
    "HardSwish": [
        "y = HardSwish (z)",
        "i = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.5> (z) y = Mul (i, z)",
        "a = Add (z, three) c = Clip (a, zero, six) p = Mul (z, c) y = Div (p, six)",
        "a = Add (three, z) c = Clip (a, zero, six) p = Mul (c, z) y = Mul (sixth, p)",
        "a = Add (z, three) c = Clip (a, zero, six) p = Div (c, six) y = Mul (z, p)",
        "a = Add (z, three) c = Clip (a, zero, six) w = Mul (z, sixth) y = Mul (w, c)",
        "a = Add (z, three) r = Relu (a) c = Min (r, six) p = Mul (c, sixth) y = Mul (z, p)",
        "a = Mul (z, sixth) h = Add (a, half) c = Clip (h, zero, one) y = Mul (z, c)",
        "a = Add (z, three) h = Div (a, six) c = Clip (h, zero, one) y = Mul (c, z)",
    ],
    "LeakyRelu": [
        "y = LeakyRelu <alpha: float = 0.1> (z)",
        "y = PRelu (z, tenth)",
        "y = PRelu (z, slopes)",
        "a = Mul (z, tenth) y = Max (z, a)",
    ],
}  # fmt: skip

LEFT = {
    "clipped above": "y = Clip (z, zero, six)",
    "clipped at another number": "y = Clip (z, minus)",
    "a maximum with something else": "y = Max (z, x)",
    "a maximum of three": "y = Max (z, zero, x)",
    "the gate of something else": "i = Sigmoid (x) y = Mul (z, i)",
    "a gate by itself": "y = Sigmoid (z)",
    "twice the gate's argument": "a = Mul (z, two) i = Sigmoid (a) y = Mul (z, i)",
    "GELU by its approximation": "y = com.microsoft.QuickGelu (z)",
    "the reciprocal of a softplus": "e = Exp (z) d = Add (e, one) y = Div (z, d)",
    "the quotient upside down": "a = Neg (z) e = Exp (a) d = Add (e, one) y = Div (d, z)",
    "a hard gate with ONNX's default slope": "i = HardSigmoid (z) y = Mul (i, z)",
    "a hard gate, not divided": "a = Add (z, three) c = Clip (a, zero, six) y = Mul (z, c)",
    "a hard gate, divided twice": (
        "a = Add (z, three) c = Clip (a, zero, six) p = Div (c, six) w = Div (p, six) y = Mul (z, w)"
    ),
    "a hard gate from another place": "a = Sub (z, three) c = Clip (a, zero, six) p = Div (c, six) y = Mul (z, p)",
    "a hard gate, subtracted from": "a = Sub (three, z) c = Clip (a, zero, six) p = Div (c, six) y = Mul (z, p)",
    "a hard gate of half the height": "a = Add (z, three) c = Clip (a, zero, three) p = Div (c, three) y = Mul (z, p)",
    "a hard gate times a shifted y": "a = Add (z, three) c = Clip (a, zero, six) p = Div (c, six) y = Mul (a, p)",
    "a slope per channel": "y = PRelu (z, other_slopes)",
    "a maximum with a larger multiple": "a = Mul (z, two) y = Max (z, a)",
    "a constant that adds an axis": "r = Max (z, five_axes) y = Squeeze (r)",
}

KEPT = {
    "is used by another node": ("y = Relu (z) w = Neg (z)", "float[2,8,3,4] y, float[2,8,3,4] w"),
    "is an output": ("y = Relu (z)", "float[2,8,3,4] y, float[2,8,3,4] z"),
    "has a gate that is an output": ("w = Sigmoid (z) y = Mul (z, w)", "float[2,8,3,4] y, float[2,8,3,4] w"),
    "has a gate that is used": ("i = Sigmoid (z) y = Mul (z, i) w = Neg (i)", "float[2,8,3,4] y, float[2,8,3,4] w"),
    "has two activations": ("y = Relu (z) i = Sigmoid (z) w = Mul (z, i)", "float[2,8,3,4] y, float[2,8,3,4] w"),
}


def model_of(nodes: str, outputs: str = "float[2,8,3,4] y", opset: int = 17, functions: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(MODEL.format(nodes=nodes, outputs=outputs, opset=opset, functions=functions))


def operators(model: onnx.ModelProto, **options: bool) -> list[str]:
    """Operators of ours in the fused model, once it computes the same."""
    fused = fuse(model, **options).model
    with contextlib.suppress(Unsupported):  # ONNX Runtime's own operators
        feeds = {"x": sample("ordinary", (2, 8, 3, 4))}
        assert difference(evaluator(fused).run(feeds), evaluator(model).run(feeds)) < 1e-6
    return [node.op_type for node in fused.graph.node if node.domain == "gn_onnx"]


@pytest.mark.parametrize(
    ("suffix", "nodes"), [(suffix, nodes) for suffix, spellings in TAKEN.items() for nodes in spellings]
)
def test_every_spelling_is_taken_in(suffix: str, nodes: str) -> None:
    model = model_of(nodes)
    assert operators(model) == [f"GroupNormalization{suffix}"]
    assert {node.domain for node in fuse(model).model.graph.node} == {"gn_onnx"}, "nothing is left over"


@pytest.mark.parametrize("nodes", LEFT.values(), ids=LEFT.keys())
def test_what_only_looks_like_an_activation_stays(nodes: str) -> None:
    assert operators(model_of(nodes)) == ["GroupNormalization"]


@pytest.mark.parametrize(("nodes", "outputs"), KEPT.values(), ids=KEPT.keys())
def test_a_normalised_value_with_another_use_stays(nodes: str, outputs: str) -> None:
    assert operators(model_of(nodes, outputs)) == ["GroupNormalization"]


def test_swish_of_opset_24() -> None:
    assert operators(model_of("y = Swish (z)", opset=24)) == ["GroupNormalizationSilu"]
    assert operators(model_of("y = Swish <alpha: float = 1.702> (z)", opset=24)) == ["GroupNormalization"]


@pytest.mark.parametrize(
    ("nodes", "functions", "operator"),
    [
        ("y = own.silu (z)", SILU_FUNCTION, "GroupNormalizationSilu"),
        ("y = own.module (z)", NESTED_FUNCTION, "GroupNormalizationSilu"),
        ("y = own.silu (z)", SILU_FUNCTION.replace("(a, c)", "(c, c)"), "GroupNormalization"),
    ],
    ids=["silu", "a module that calls silu", "the gate squared"],
)
def test_functions_of_exporters(nodes: str, functions: str, operator: str) -> None:
    assert operators(model_of(nodes, functions=functions)) == [operator]


def test_a_function_that_calls_itself_is_no_activation() -> None:
    fused = fuse(model_of("y = own.silu (z)", functions=ENDLESS_FUNCTION))
    assert [record.op_type for record in fused.fused] == ["GroupNormalization"]


def test_float16_constants() -> None:
    model = model_of("a = Add (z, three) c = Clip (a, zero, six) p = Mul (z, c) y = Mul (p, sixth)")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).clip(-6e4, 6e4).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    assert [record.op_type for record in fuse(model).fused] == ["GroupNormalizationHardSwish"]


def test_not_into_the_body_of_a_loop() -> None:
    """There it would be computed in every turn."""
    nodes = (
        "t = Constant <value_int = 3> () k0 = Constant <value = bool {1}> () "
        "y = Loop (t, k0, x) <body = turn (int64 i, bool k, float[2,8,3,4] v) => (bool c, float[2,8,3,4] w) "
        "{ c = Identity (k) r = Relu (z) w = Add (v, r) }>"
    )
    assert operators(model_of(nodes)) == ["GroupNormalization"]


def test_activations_can_be_left() -> None:
    model = model_of("y = Relu (z)")
    assert operators(model, activations=False) == ["GroupNormalization"]
    assert [node.op_type for node in fuse(model, target="onnx").model.graph.node] == ["GroupNormalization", "Relu"]


def test_the_record_names_the_nodes_of_the_activation() -> None:
    model = model_of("i = Sigmoid (z) y = Mul (z, i)")
    for node in model.graph.node:
        node.name = f"node {node.output[0]}"
    (record,) = fuse(model).fused
    assert (record.activation, record.output.name) == ("silu", "y")
    assert record.node_names[-2:] == ("node i", "node y")
