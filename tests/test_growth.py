"""How the time of fusing grows with the graph: as its number of nodes, whatever the edges."""

from __future__ import annotations

import statistics
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gn_onnx import fuse

CHANNELS, NUM_GROUPS = 8, 4


def network(nodes: int, group_norms: int) -> onnx.ModelProto:
    """GroupNorms in two forms, each with a SiLU behind it, between residual additions: shapes are known at run time."""
    constants = {
        "split": np.array([0, NUM_GROUPS, -1]),
        "ones": np.ones(NUM_GROUPS, np.float32),
        "zeros": np.zeros(NUM_GROUPS, np.float32),
        "axes": np.array([2]),
        "epsilon": np.array(1e-5, np.float32),
        "gamma": np.linspace(0.5, 2, CHANNELS, dtype=np.float32).reshape(-1, 1, 1),
        "beta": np.linspace(-1, 1, CHANNELS, dtype=np.float32).reshape(-1, 1, 1),
    }
    made: list[onnx.NodeProto] = []

    def node(op: str, *inputs: str) -> str:
        made.append(helper.make_node(op, list(inputs), [f"v{len(made)}"], f"{op}_{len(made)}"))
        return made[-1].output[0]

    x = skip = "x"
    for i in range(group_norms):
        grouped = node("Reshape", x, "split")
        if i % 2:
            normal = node("InstanceNormalization", grouped, "ones", "zeros")
        else:
            centred = node("Sub", grouped, node("ReduceMean", grouped, "axes"))
            variance = node("ReduceMean", node("Mul", centred, centred), "axes")
            normal = node("Div", centred, node("Sqrt", node("Add", variance, "epsilon")))
        back = node("Reshape", normal, node("Shape", x))
        y = node("Add", node("Mul", back, "gamma"), "beta")
        x = skip = node("Add", node("Mul", y, node("Sigmoid", y)), skip)
        while len(made) < (i + 1) * nodes // group_norms:
            x = node("Add", node("Tanh", x), skip)
            skip = x
    made.append(helper.make_node("Identity", [x], ["y"], "last"))
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", CHANNELS, "H", "W"]) for name in "xy"]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(made, "network", info[:1], info[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def seconds(nodes: int, group_norms: int) -> float:
    model = network(nodes, group_norms)
    times = []
    for _ in range(3):
        start = time.process_time()
        result = fuse(model)
        times.append(time.process_time() - start)
        assert len(result.fused) == group_norms
        assert all(site.activation == "silu" for site in result.fused)
    return statistics.median(times)


def test_time_grows_with_the_number_of_nodes() -> None:
    seconds(100, 2)
    small, large = seconds(1000, 20), seconds(4000, 80)
    assert large < 8 * small, f"{small:.2f} s for 1000 nodes, {large:.2f} s for 4000"


def test_time_does_not_grow_with_the_number_of_paths() -> None:
    """Twenty-four diamonds in a row have 2^48 paths; every value is looked at once."""
    made, value = [], "x"
    for i in range(24):
        made.append(helper.make_node("Add", [value, value], [f"a{i}"]))
        made.append(helper.make_node("Mul", [f"a{i}", value], [f"b{i}"]))
        value = f"b{i}"
    model = network(100, 2)
    made.append(helper.make_node("Sigmoid", [value], ["before"]))
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "before" if name == "x" else name
    nodes = [*made, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    start = time.process_time()
    assert len(fuse(model).fused) == 2
    assert time.process_time() - start < 20.0
