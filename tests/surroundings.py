"""Puts a generated graph where real models have theirs: in a branch, a loop body, a function, between other operators."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import onnx
from generate import Case
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper


def surrounded(case: Case, rng: random.Random) -> Case:
    """The same GroupNorm elsewhere. x and y keep their names, shapes and types."""
    change = rng.choice((_in_a_branch, _in_a_loop, _in_a_function, _between_neighbours, _beside_outputs))
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs = dict(case.inputs)
    change(model, inputs, rng)
    return dataclasses.replace(case, model=model, inputs=inputs, description=f"{case.description},{change.__name__}")


def _renamed(nodes: list[NodeProto], names: dict[str, str]) -> None:
    for node in nodes:
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                field[i] = names.get(name, name)


def _take_out(graph: GraphProto) -> tuple[list[NodeProto], list[TensorProto]]:
    nodes, constants = list(graph.node), list(graph.initializer)
    del graph.node[:]
    del graph.initializer[:]
    return nodes, constants


def _like(value: ValueInfoProto, name: str) -> ValueInfoProto:
    copy = ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy


def _in_a_branch(model: onnx.ModelProto, inputs: dict[str, np.ndarray], rng: random.Random) -> None:
    graph = model.graph
    nodes, constants = _take_out(graph)
    _renamed(nodes, {"y": "inner"})
    outside = constants if rng.random() < 0.5 else []
    inside = [] if outside else constants
    taken = helper.make_graph(nodes, "taken", [], [_like(graph.output[0], "inner")], inside)
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["other"])], "other", [], [_like(graph.output[0], "other")]
    )
    branches = (taken, other) if rng.random() < 0.5 else (other, taken)
    graph.initializer.extend(outside)
    graph.node.append(helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]))
    graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    inputs["flag"] = np.asarray(branches[0] is taken)


def _in_a_loop(model: onnx.ModelProto, inputs: dict[str, np.ndarray], rng: random.Random) -> None:
    graph = model.graph
    nodes, constants = _take_out(graph)
    _renamed(nodes, {"x": "state", "y": "next"})
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), *nodes],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            _like(graph.input[0], "state"),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), _like(graph.output[0], "next")],
        constants,
    )
    # One turn: a mutant may give its state another shape than a second turn could take.
    graph.initializer.append(helper.make_tensor("turns", TensorProto.INT64, [], [1]))
    graph.node.append(helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body))


def _in_a_function(model: onnx.ModelProto, inputs: dict[str, np.ndarray], rng: random.Random) -> None:
    graph = model.graph
    nodes, constants = _take_out(graph)
    filled = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in constants]
    names = [value.name for value in graph.input]
    imports = [helper.make_opsetid("", model.opset_import[0].version)]
    model.functions.append(helper.make_function("local", "block", names, ["y"], [*filled, *nodes], imports))
    model.opset_import.append(helper.make_opsetid("local", 1))
    graph.node.append(helper.make_node("block", names, ["y"], "call", domain="local"))


def _between_neighbours(model: onnx.ModelProto, inputs: dict[str, np.ndarray], rng: random.Random) -> None:
    graph = model.graph
    _renamed(list(graph.node), {"x": "before", "y": "after"})
    first = rng.choice(("Relu", "Sigmoid", "Add", "Neg", "Tanh"))
    graph.node.insert(0, helper.make_node(first, ["x", "x"] if first == "Add" else ["x"], ["before"], "first"))
    last = rng.choice(("Relu", "Sigmoid", "Add x", "Add before", "silu"))
    if last == "silu":
        graph.node.append(helper.make_node("Sigmoid", ["after"], ["gate"], "gate"))
        graph.node.append(helper.make_node("Mul", ["after", "gate"], ["y"], "gated"))
    else:
        op, _, other = last.partition(" ")
        graph.node.append(helper.make_node(op, ["after", *([other] if other else [])], ["y"], "end"))


def _beside_outputs(model: onnx.ModelProto, inputs: dict[str, np.ndarray], rng: random.Random) -> None:
    """One or two floating-point values on the way are graph outputs too.

    None of them is x in rows, [N, M]: a normalised one is a LayerNorm for who uses it, and stays one.
    """
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    produced = {name for node in graph.node if node.op_type != "Constant" for name in node.output}
    candidates = [v for v in inferred if v.name in produced and v.type.tensor_type.elem_type in kinds]
    candidates = [v for v in candidates if v.type.tensor_type.HasField("shape") and len(v.type.tensor_type.shape.dim) != 2]
    graph.output.extend(rng.sample(candidates, min(len(candidates), rng.choice((1, 2)))))
