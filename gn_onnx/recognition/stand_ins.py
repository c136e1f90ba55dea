"""Standard nodes, for shape inference, in the place of those that ONNX's inference does not know or misjudges."""

from __future__ import annotations

from collections.abc import MutableSequence

import onnx

_FEW_NUMBERS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16)
_STAND_IN = {
    ("com.microsoft.nchwc", "Conv"): "Conv",
    ("com.microsoft.nchwc", "MaxPool"): "MaxPool",
    ("com.microsoft.nchwc", "AveragePool"): "AveragePool",
    ("com.microsoft.nchwc", "GlobalAveragePool"): "GlobalAveragePool",
    ("com.microsoft.nchwc", "GlobalMaxPool"): "GlobalMaxPool",
    ("com.microsoft.nchwc", "ReorderInput"): "Identity",
    ("com.microsoft", "FusedConv"): "Conv",
    ("com.microsoft", "FusedMatMul"): "MatMul",
    ("com.microsoft", "FusedGemm"): "Gemm",
    ("com.microsoft", "GroupNorm"): "Identity",
    ("com.microsoft", "BiasAdd"): "Identity",
    ("com.microsoft", "QuickGelu"): "Identity",
    ("com.microsoft", "Gelu"): "Identity",
    ("com.microsoft", "FastGelu"): "Identity",
    ("com.microsoft", "BiasGelu"): "Identity",
    ("com.microsoft", "QLinearSigmoid"): "Identity",
    ("com.microsoft", "QLinearLeakyRelu"): "Identity",
    ("com.microsoft", "QLinearGlobalAveragePool"): "GlobalAveragePool",
    ("com.microsoft", "QLinearAveragePool"): "AveragePool",
}
"""Operators of ONNX Runtime's optimiser whose result has the shape that a standard operator's would have."""

_SUMS = {"SkipGroupNorm": 1, "SkipLayerNormalization": 3}
"""Operators that normalise a sum, and which output the sum is."""


def put_stand_ins(nodes: MutableSequence[onnx.NodeProto]) -> None:
    """Every node as `_stand_in` has it, in the graphs inside nodes too."""
    steps: list[list[onnx.NodeProto]] = []
    for node in nodes:
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                put_stand_ins(body.node)
        steps.append(_stand_in(node))
    if any(step[0] is not node for step, node in zip(steps, nodes, strict=True)):
        del nodes[:]
        nodes.extend(node for step in steps for node in step)


def _cast(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The Cast, and behind one to a type that holds few numbers what inference carries no sizes through."""
    to = next((a.i for a in node.attribute if a.name == "to"), 0)
    between = ["Not", "Not"] if to == onnx.TensorProto.BOOL else ["Abs"] if to in _FEW_NUMBERS else []
    if not between:
        return [node]
    names = [*(f"{node.output[0]}/whole{i}" for i in range(len(between))), node.output[0]]
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.output[0] = names[0]
    steps = zip(between, names[:-1], names[1:], strict=True)
    return [copy, *(onnx.helper.make_node(op, [source], [target]) for op, source, target in steps)]


def _nhwc_conv(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A Conv of [N, H, W, C] with weights [M, kH, kW, C]."""
    out = node.output[0]
    first = [f"{out}/first", f"{out}/weights", f"{out}/result"]
    conv = onnx.helper.make_node("Conv", [first[0], first[1], *node.input[2:3]], first[2:])
    conv.attribute.extend(node.attribute)
    return [
        onnx.helper.make_node("Transpose", [node.input[0]], first[:1], perm=[0, 3, 1, 2]),
        onnx.helper.make_node("Transpose", [node.input[1]], first[1:2], perm=[0, 3, 1, 2]),
        conv,
        onnx.helper.make_node("Transpose", first[2:], [out], perm=[0, 2, 3, 1]),
    ]


def _stand_in(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The node, or standard ones with the same shapes for an operator that ONNX's inference does not know."""
    if (node.domain, node.op_type) == ("com.microsoft.nchwc", "ReorderOutput"):
        channels = next((a.i for a in node.attribute if a.name == "channels"), 0)
        out, name = node.output[0], node.output[0] + "/channels"
        constants = [
            onnx.helper.make_node("Constant", [], [f"{name}{i}"], value_ints=[value])
            for i, value in enumerate((0, channels, 1))
        ]
        return [*constants, onnx.helper.make_node("Slice", [node.input[0], *(f"{name}{i}" for i in range(3))], [out])]
    if node.domain == "com.microsoft" and node.op_type == "NhwcConv":
        return _nhwc_conv(node)
    if node.domain == "com.microsoft" and node.op_type in _SUMS:
        results = [name for i, name in enumerate(node.output) if name and i in (0, _SUMS[node.op_type])]
        return [onnx.helper.make_node("Identity", [node.input[0]], [name]) for name in results]
    if node.domain == "com.microsoft" and node.op_type in ("QLinearAdd", "QLinearMul"):
        return [onnx.helper.make_node("Add", [node.input[0], node.input[3]], list(node.output))]
    if node.op_type == "Cast" and node.domain in ("", "ai.onnx"):
        return _cast(node)
    standard = _STAND_IN.get((node.domain, node.op_type))
    if standard is None:
        return [node]
    inputs = list(node.input[:1] if standard == "Identity" else node.input[:3])
    kept = {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "ceil_mode", "count_include_pad"}
    copy = onnx.helper.make_node(standard, inputs, list(node.output[:1]))
    copy.attribute.extend(a for a in node.attribute if a.name in kept and standard not in ("Identity", "MatMul"))
    return [copy]
