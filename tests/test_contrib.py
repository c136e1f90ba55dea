"""What ONNX Runtime's optimiser for diffusion models writes: fused, and checked without running it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from helpers import group_norm_nodes

from gn_onnx import find_group_norms, fuse
from gn_onnx.checking.site_check import check_sites
from gn_onnx.group_norm import Rejection

BLOCK = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
block (float[N,8,H,W] x, float[N,8] t) => (float[N,H,W,8] y, float[N,H,W,8] sum)
<float[8] gamma, float[8] beta, float[8,3,3,8] weight, float[8] shift>
{
  last = Transpose <perm = [0, 2, 3, 1]> (x)
  a = com.microsoft.GroupNorm <activation = 1, groups = 4, epsilon = 0.00001> (last, gamma, beta)
  b = com.microsoft.NhwcConv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a, weight, shift)
  c = com.microsoft.SkipGroupNorm <activation = 1, groups = 2, epsilon = 0.00001> (b, gamma, beta, t, shift)
  d = com.microsoft.NhwcConv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c, weight, shift)
  e, sum = com.microsoft.SkipGroupNorm <activation = 0, groups = 4, epsilon = 0.00001> (last, gamma, beta, d)
  y = Cast <to = 1> (e)
}
"""
SHAPES = {"x": (2, 8, 6, 5), "t": (2, 8)}


def block(dtype: type = np.float32) -> onnx.ModelProto:
    """A residual block: the parameters are in float32 whatever x is in."""
    text = BLOCK if dtype is np.float32 else BLOCK.replace("float[N", "float16[N").replace("to = 1", "to = 10")
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    del model.graph.value_info[:]  # what the parser makes of parameters without values
    for name, shape in {"gamma": (8,), "beta": (8,), "weight": (8, 3, 3, 8), "shift": (8,)}.items():
        kind = np.float32 if name in ("gamma", "beta") else dtype
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(kind), name))
    return model


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("target", ["plugin", "onnx"])
def test_every_norm_of_a_block_is_fused_and_right(target: str, dtype: type) -> None:
    model = block(dtype)
    result = fuse(model, target=target)
    assert len(group_norm_nodes(result.model)) == 3
    assert not any(node.op_type.endswith("GroupNorm") for node in result.model.graph.node)
    checks = check_sites(model, result.model, input_shapes=SHAPES)
    assert [check.status for check in checks] == ["equal"] * 3, checks


@pytest.mark.parametrize("attribute", ["epsilon", "num_groups"])
def test_a_wrong_node_is_told(attribute: str) -> None:
    model = block()
    fused = fuse(model).model
    wrong = {"epsilon": 1e-3, "num_groups": 8}[attribute]
    for node in group_norm_nodes(fused):
        for given in node.attribute:
            if given.name == attribute:
                given.CopyFrom(onnx.helper.make_attribute(attribute, wrong))
    assert [check.status for check in check_sites(model, fused, input_shapes=SHAPES)] == ["different"] * 3


def test_what_cannot_be_split_is_left_with_a_reason() -> None:
    model = block()
    for node in model.graph.node:
        if node.op_type == "NhwcConv":
            node.op_type = "Unheard"
    result = fuse(model)
    assert len(group_norm_nodes(result.model)) == 1 + 2  # the skip ones stay
    assert [node.op_type for node in result.model.graph.node].count("SkipGroupNorm") == 2
    rejected = [found for found in find_group_norms(model) if isinstance(found, Rejection)]
    assert [rejection.op_type for rejection in rejected] == ["SkipGroupNorm"] * 2
    assert all("shape" in rejection.reason or "rank" in rejection.reason for rejection in rejected)
