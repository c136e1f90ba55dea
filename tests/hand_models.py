"""Small models built node by node, for tests of everything around the recogniser."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def group_norm_chain(prefix: str, x: str, y: str, channels: int, groups: int, rank: int = 4) -> tuple[list, list]:
    """What PyTorch's TorchScript exporter writes for GroupNorm; [N, C, *spatial] -> the same. Nodes, initializers."""
    rng = np.random.default_rng(len(prefix) + channels)
    per_channel = (channels,) + (1,) * (rank - 2)
    initializers = [
        numpy_helper.from_array(np.array([0, groups, -1], np.int64), f"{prefix}.split"),
        numpy_helper.from_array(np.ones(groups, np.float32), f"{prefix}.ones"),
        numpy_helper.from_array(np.zeros(groups, np.float32), f"{prefix}.zeros"),
        numpy_helper.from_array(rng.uniform(0.5, 2, per_channel).astype(np.float32), f"{prefix}.scale"),
        numpy_helper.from_array(rng.normal(size=per_channel).astype(np.float32), f"{prefix}.bias"),
    ]
    nodes = [
        helper.make_node("Reshape", [x, f"{prefix}.split"], [f"{prefix}.r"], f"{prefix}/Reshape"),
        helper.make_node("InstanceNormalization", [f"{prefix}.r", f"{prefix}.ones", f"{prefix}.zeros"],
                         [f"{prefix}.n"], f"{prefix}/InstanceNormalization", epsilon=1e-5),
        helper.make_node("Shape", [x], [f"{prefix}.s"], f"{prefix}/Shape"),
        helper.make_node("Reshape", [f"{prefix}.n", f"{prefix}.s"], [f"{prefix}.b"], f"{prefix}/Reshape_1"),
        helper.make_node("Mul", [f"{prefix}.b", f"{prefix}.scale"], [f"{prefix}.m"], f"{prefix}/Mul"),
        helper.make_node("Add", [f"{prefix}.m", f"{prefix}.bias"], [y], f"{prefix}/Add"),
    ]  # fmt: skip
    return nodes, initializers


def detector(channels: int = 8, groups: int = 2, opset: int = 17) -> onnx.ModelProto:
    """Conv, GroupNorm, Relu, Conv, GroupNorm over an image [N, 3, H, W] with symbolic sizes."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["image", "w0"], ["c0"], "conv0", pads=[1] * 4)]
    initializers = [numpy_helper.from_array(rng.normal(size=(channels, 3, 3, 3)).astype(np.float32) / 5, "w0")]
    more, constants = group_norm_chain("gn0", "c0", "g0", channels, groups)
    nodes += more
    initializers += constants
    nodes += [
        helper.make_node("Relu", ["g0"], ["a0"], "relu"),
        helper.make_node("Conv", ["a0", "w1"], ["c1"], "conv1", pads=[1] * 4),
    ]
    weights = rng.normal(size=(channels, channels, 3, 3)).astype(np.float32) / 8
    initializers.append(numpy_helper.from_array(weights, "w1"))
    more, constants = group_norm_chain("gn1", "c1", "features", channels, groups)
    nodes += more
    initializers += constants
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", channels, "H", "W"])
    graph = helper.make_graph(nodes, "detector", [image], [features], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="hand")
    model.ir_version = 8
    return model


def without_group_norm() -> onnx.ModelProto:
    """One Relu over [N, 3]."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "relu")],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def group_norm_body(opset: int = 17) -> onnx.FunctionProto:
    """gn_onnx::GroupNormalization for two groups, as a function: runs without the operator library."""
    nodes = [
        helper.make_node("Constant", [], ["split"], value_ints=[0, 2, -1]),
        helper.make_node("Constant", [], ["ones"], value_floats=[1.0, 1.0]),
        helper.make_node("Constant", [], ["zeros"], value_floats=[0.0, 0.0]),
        helper.make_node("Constant", [], ["column"], value_ints=[-1, 1, 1]),
        helper.make_node("Reshape", ["X", "split"], ["r"]),
        helper.make_node("InstanceNormalization", ["r", "ones", "zeros"], ["n"]),
        helper.make_node("Shape", ["X"], ["s"]),
        helper.make_node("Reshape", ["n", "s"], ["b"]),
        helper.make_node("Reshape", ["scale", "column"], ["gamma"]),
        helper.make_node("Reshape", ["bias", "column"], ["beta"]),
        helper.make_node("Mul", ["b", "gamma"], ["m"]),
        helper.make_node("Add", ["m", "beta"], ["Y"]),
    ]
    epsilon = nodes[5].attribute.add(name="epsilon", ref_attr_name="epsilon", type=onnx.AttributeProto.FLOAT)
    assert epsilon.ref_attr_name
    opsets = [helper.make_opsetid("", opset)]
    attributes = ["num_groups", "epsilon"]
    return helper.make_function("gn_onnx", "GroupNormalization", ["X", "scale", "bias"], ["Y"], nodes, opsets, attributes)


def fused_detector(original: onnx.ModelProto, *, epsilon: float = 1e-5, scale: float = 1.0) -> onnx.ModelProto:
    """`detector()` as fusing should leave it; other arguments than the defaults make it wrong."""
    model = onnx.ModelProto()
    model.CopyFrom(original)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in original.graph.initializer}
    del model.graph.node[:]
    added: list[onnx.TensorProto] = []
    for node in original.graph.node:
        prefix, _, rest = node.name.partition("/")
        if not rest:
            model.graph.node.append(node)
        elif rest == "Add":
            index = prefix[-1]
            names = [f"{prefix}.gamma", f"{prefix}.beta"]
            added += [
                numpy_helper.from_array(constants[f"{prefix}.scale"].ravel() * np.float32(scale), names[0]),
                numpy_helper.from_array(constants[f"{prefix}.bias"].ravel(), names[1]),
            ]
            fused = helper.make_node(
                "GroupNormalization", [f"c{index}", *names], list(node.output), f"{prefix}/GroupNorm",
                domain="gn_onnx", num_groups=2, epsilon=epsilon,
            )  # fmt: skip
            model.graph.node.append(fused)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in original.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept + added)
    model.opset_import.append(helper.make_opsetid("gn_onnx", 1))
    model.functions.append(group_norm_body())
    return model
