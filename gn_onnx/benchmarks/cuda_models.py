"""ONNX models that hold many independent GroupNorms of one shape: for timing ONNX Runtime on a CUDA device.

One run of the model goes round as many tensors as it has nodes, so that the L2 cache is cold for each and the cost of a
run is shared by all. Imports: numpy, onnx.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gn_onnx.benchmarks.cases import Case
from gn_onnx.group_norm import DOMAIN, DOMAIN_VERSION, op_type

CHAIN, NATIVE, CONTRIB, OURS = (
    "exported chain", "GroupNormalization-21 expanded", "contrib GroupNorm", "gn_onnx in ONNX Runtime",
)  # fmt: skip
_EPSILON = 1e-5
_TYPES = {"float32": (TensorProto.FLOAT, np.float32), "float16": (TensorProto.FLOAT16, np.float16)}
_OPSET = {CHAIN: 18, NATIVE: 21, CONTRIB: 18, OURS: 18}


def make(kind: str, case: Case, dtype: str, copies: int, scale: np.ndarray, bias: np.ndarray) -> onnx.ModelProto | None:
    """`copies` GroupNorms, inputs x0, x1, ... and outputs y0, y1, ..., or None where the kind cannot express the case.

    Args:
        kind: CHAIN, NATIVE, CONTRIB or OURS.
        case: Its shape and activation.
        dtype: float32 or float16.
        copies: Nodes.
        scale: [C].
        bias: [C].
    """
    if dtype not in _TYPES or (kind == CONTRIB and (len(case.spatial) != 2 or case.activation not in ("none", "silu"))):
        return None
    element, numpy_type = _TYPES[dtype]
    nodes: list[onnx.NodeProto] = []
    for copy in range(copies):
        nodes += _NODES[kind](case, f"x{copy}", f"y{copy}", f"{copy}_")
    constants = _constants(kind, case, scale.astype(numpy_type), bias.astype(numpy_type))
    graph = helper.make_graph(
        nodes,
        "group_norms",
        [helper.make_tensor_value_info(f"x{i}", element, case.shape) for i in range(copies)],
        [helper.make_tensor_value_info(f"y{i}", element, case.shape) for i in range(copies)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET[kind])]
    if kind in (CONTRIB, OURS):
        opsets.append(helper.make_opsetid(*_DOMAINS[kind]))
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10
    return model


_DOMAINS = {CONTRIB: ("com.microsoft", 1), OURS: (DOMAIN, DOMAIN_VERSION)}


def _constants(kind: str, case: Case, scale: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    if kind == CONTRIB:  # its scale and bias are float32 only
        return {"scale": scale.astype(np.float32), "bias": bias.astype(np.float32)}
    if kind != CHAIN:
        return {"scale": scale, "bias": bias}
    per_channel = (case.channels,) + (1,) * len(case.spatial)
    return {
        "split": np.array([0, case.num_groups, -1], np.int64),
        "whole": np.array(case.shape, np.int64),
        "ones": np.ones(case.num_groups, scale.dtype),
        "zeros": np.zeros(case.num_groups, scale.dtype),
        "scale": scale.reshape(per_channel),
        "bias": bias.reshape(per_channel),
    }


def _activation(case: Case, before: str, after: str, prefix: str) -> list[onnx.NodeProto]:
    if case.activation == "silu":
        gate = f"{prefix}gate"
        return [helper.make_node("Sigmoid", [before], [gate]), helper.make_node("Mul", [before, gate], [after])]
    names = {"none": "Identity", "relu": "Relu", "hard_swish": "HardSwish", "leaky_relu": "LeakyRelu"}
    return [helper.make_node(names[case.activation], [before], [after])]


def _chain(case: Case, x: str, y: str, prefix: str) -> list[onnx.NodeProto]:
    g, n, j, m, a = (prefix + name for name in ("groups", "normal", "joined", "scaled", "affine"))
    return [
        helper.make_node("Reshape", [x, "split"], [g]),
        helper.make_node("InstanceNormalization", [g, "ones", "zeros"], [n], epsilon=_EPSILON),
        helper.make_node("Reshape", [n, "whole"], [j]),
        helper.make_node("Mul", [j, "scale"], [m]),
        helper.make_node("Add", [m, "bias"], [a]),
        *_activation(case, a, y, prefix),
    ]


def _native(case: Case, x: str, y: str, prefix: str) -> list[onnx.NodeProto]:
    n = f"{prefix}normal"
    node = helper.make_node("GroupNormalization", [x, "scale", "bias"], [n], num_groups=case.num_groups, epsilon=_EPSILON)
    return [node, *_activation(case, n, y, prefix)]


def _contrib(case: Case, x: str, y: str, prefix: str) -> list[onnx.NodeProto]:
    t, n = f"{prefix}last", f"{prefix}normal"
    return [
        helper.make_node("Transpose", [x], [t], perm=[0, 2, 3, 1]),
        helper.make_node(
            "GroupNorm", [t, "scale", "bias"], [n], domain="com.microsoft", groups=case.num_groups,
            epsilon=_EPSILON, activation=int(case.activation == "silu"), channels_last=1,
        ),
        helper.make_node("Transpose", [n], [y], perm=[0, 3, 1, 2]),
    ]  # fmt: skip


def _ours(case: Case, x: str, y: str, prefix: str) -> list[onnx.NodeProto]:
    del prefix
    return [
        helper.make_node(
            op_type(case.activation, channels_last=False), [x, "scale", "bias"], [y],
            domain=DOMAIN, num_groups=case.num_groups, epsilon=_EPSILON,
        )
    ]  # fmt: skip


_NODES = {CHAIN: _chain, NATIVE: _native, CONTRIB: _contrib, OURS: _ours}
