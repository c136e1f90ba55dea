"""A rejection names the node that a model's author has to change: the first whose result is not as it should be."""

from __future__ import annotations

import onnx
import pytest
from forms_reader import FORMS
from onnx import TensorProto, helper

from gn_onnx import find_group_norms, fuse
from gn_onnx.group_norm import Rejection

BY_NAME = {form.name: form for form in FORMS}


@pytest.mark.parametrize(
    ("form", "op_type", "reason"),
    [
        ("not_unbiased", "Div", "unbiased=False"),
        ("not_epsilon_outside", "Add", "outside of the root"),
        ("not_twice_the_variance", "Mul", "weighted with 2"),
        ("not_epsilon_per_group", "Add", "epsilon differs"),
        ("not_divided_by_variance", "Add", "square root is missing"),
        ("not_std_clamped", "Max", "clamps"),
        ("not_batch_merged", "Reshape", "samples and channels"),
    ],
)
def test_names_the_first_operation_that_broke_it(form: str, op_type: str, reason: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(BY_NAME[form].model)
    for i, node in enumerate(model.graph.node):
        node.name = f"head/{i}"
    (rejection,) = (found for found in find_group_norms(model) if isinstance(found, Rejection))
    assert (rejection.op_type, reason in rejection.reason) == (op_type, True), rejection
    assert rejection.node in {node.name for node in model.graph.node if node.op_type == op_type}


@pytest.mark.parametrize("op", ["RandomNormalLike", "Bernoulli", "Dropout"])
def test_two_random_tensors_of_one_input_are_two_tensors(op: str) -> None:
    """The statistics of the one, the deviation of the other: they have the same inputs and attributes."""
    inputs = ["x", "ratio", "training"] if op == "Dropout" else ["x"]
    nodes = [
        helper.make_node(op, inputs, ["a"], "first"),
        helper.make_node(op, inputs, ["b"], "second"),
        helper.make_node("ReduceMean", ["b"], ["m"], axes=[2]),
        helper.make_node("Sub", ["b", "m"], ["d"]),
        helper.make_node("Mul", ["d", "d"], ["p"]),
        helper.make_node("ReduceMean", ["p"], ["v"], axes=[2]),
        helper.make_node("Add", ["v", "epsilon"], ["e"]),
        helper.make_node("Sqrt", ["e"], ["r"]),
        helper.make_node("Sub", ["a", "m"], ["c"]),
        helper.make_node("Div", ["c", "r"], ["n"]),
        helper.make_node("Mul", ["n", "gamma"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4, 9]) for name in "xy"]
    constants = [
        helper.make_tensor("epsilon", TensorProto.FLOAT, [], [1e-5]),
        helper.make_tensor("gamma", TensorProto.FLOAT, [4, 1], [1, 2, 3, 4]),
        helper.make_tensor("ratio", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("training", TensorProto.BOOL, [], [True]),
    ]
    graph = helper.make_graph(nodes, "random", info[:1], info[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    assert not fuse(model).fused
