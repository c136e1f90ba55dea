"""Legal models with what few have: sparse weights, overloads, annotations, SequenceMap. Nothing is lost, nothing fails."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from evaluate import Evaluator
from hand_models import detector, group_norm_chain
from helpers import group_norm_nodes, run_ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import gn_onnx
from gn_onnx import cli
from gn_onnx.checking import verify
from gn_onnx.errors import GnOnnxError
from gn_onnx.files import model_checks

X = np.random.default_rng(0).normal(size=(2, 8, 4, 5)).astype(np.float32)


def float_(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape or X.shape)


def model_of(nodes: list[NodeProto], constants: list[TensorProto], outputs: str = "y", **more: object) -> ModelProto:
    graph = helper.make_graph(nodes, "g", [float_("x")], [float_(name) for name in outputs.split()], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11, **more)


def chain(x: str = "x", y: str = "y") -> tuple[list[NodeProto], list[TensorProto]]:
    return group_norm_chain("gn", x, y, 8, 2)


def sparse(name: str, array: np.ndarray) -> onnx.SparseTensorProto:
    places = np.argwhere(array)
    values = numpy_helper.from_array(array[tuple(places.T)], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(places, f"{name} places"), array.shape)


def with_sparse_scale() -> ModelProto:
    nodes, constants = chain()
    scale = numpy_helper.to_array(constants[3]).copy()
    scale[2] = 0
    model = model_of(nodes, [tensor for tensor in constants if tensor.name != "gn.scale"])
    model.graph.sparse_initializer.append(sparse("gn.scale", scale))
    return model


@pytest.mark.parametrize("target", ["plugin", "onnx"])
def test_a_sparse_scale_stays_sparse_and_is_fused(target: str) -> None:
    pytest.importorskip("onnxruntime")
    model = with_sparse_scale()
    before = model.SerializeToString()
    fused = gn_onnx.fuse(model, target=target).model
    assert model.SerializeToString() == before
    assert len(group_norm_nodes(fused)) == 1
    assert list(fused.graph.sparse_initializer) == list(model.graph.sparse_initializer)
    onnx.checker.check_model(fused)
    want = run_ort(model, {"x": X})["y"]
    for other in (fused, gn_onnx.unfuse(fused)):
        np.testing.assert_allclose(run_ort(other, {"x": X})["y"], want, atol=1e-5)


def test_a_sparse_scale_from_file_to_file_and_back(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "m.onnx").write_bytes(with_sparse_scale().SerializeToString())
    for command in (["fuse", "m.onnx", "-o", "f.onnx"], ["unfuse", "f.onnx", "-o", "u.onnx"]):
        assert cli.main([command[0], str(tmp_path / command[1]), "-o", str(tmp_path / command[3])]) == 0
    assert len(onnx.load(tmp_path / "u.onnx").graph.sparse_initializer) == 1


def test_names_of_sparse_initializers_are_not_taken() -> None:
    model = model_of(*chain())
    model.graph.sparse_initializer.append(sparse("y/scale", np.eye(8, dtype=np.float32)))
    onnx.checker.check_model(gn_onnx.fuse(model).model)


def test_sparse_initializers_inside_nodes_are_kept() -> None:
    nodes, constants = chain()
    inner = helper.make_node("Add", ["y", "s"], ["z"])
    bodies = [helper.make_graph([inner], name, [], [float_("z")]) for name in ("a", "b")]
    for number, body in enumerate(bodies):
        body.sparse_initializer.append(sparse("s", np.full((1, 1), number + 2.0, np.float32)))
    condition = numpy_helper.from_array(np.array(True), "yes")
    branch = helper.make_node("If", ["yes"], ["out"], then_branch=bodies[0], else_branch=bodies[1])
    model = model_of([*nodes, branch], [*constants, condition], "out")
    fused = gn_onnx.fuse(model).model
    kept = {attribute.name: list(attribute.g.sparse_initializer) for attribute in fused.graph.node[-1].attribute}
    assert kept == {"then_branch": bodies[0].sparse_initializer, "else_branch": bodies[1].sparse_initializer}


def test_metadata_of_tensors_is_said_once() -> None:
    model = detector()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    for key in ("b", "a"):
        tensor.metadata_props.add(key=key, value="1")
    fused = gn_onnx.fuse(gn_onnx.fuse(model).model).model
    assert next(other for other in fused.graph.initializer if other.name == "w1") == tensor


@pytest.mark.parametrize("target", ["plugin", "onnx"])
def test_annotations_of_quantisation_are_kept_and_said_once(target: str) -> None:
    nodes, constants = chain()
    numbers = [numpy_helper.from_array(np.array(0.1, np.float32), "step")]
    model = model_of(nodes, constants + numbers, "y x")
    for name in ("x", "y"):
        model.graph.quantization_annotation.add(tensor_name=name).quant_parameter_tensor_names.add(
            key="SCALE_TENSOR", value="step"
        )
    fused = gn_onnx.fuse(model, target=target).model
    found = sorted(fused.graph.quantization_annotation, key=lambda annotation: annotation.tensor_name)
    assert found == list(model.graph.quantization_annotation)


@pytest.mark.parametrize("target", ["plugin", "onnx"])
def test_multi_device_configurations_are_kept(target: str) -> None:
    nodes, constants = chain(y="t")
    model = model_of([*nodes, helper.make_node("Relu", ["t"], ["y"], "after"), helper.make_node("Neg", ["t"], ["n"])],
                     constants, "y n")  # fmt: skip
    model.configuration.add(name="two", num_devices=2)
    for node in model.graph.node:
        configuration = node.device_configurations.add(configuration_id="two", pipeline_stage=1)
        for name in (*node.input, *node.output):
            configuration.sharding_spec.add(tensor_name=name, device=[0, 1])
    fused = gn_onnx.fuse(model, target=target).model
    assert fused.configuration == model.configuration
    assert [n.device_configurations for n in fused.graph.node[-2:]] == [
        n.device_configurations for n in model.graph.node[-2:]
    ]
    if target == "plugin":
        (configuration,) = group_norm_nodes(fused)[0].device_configurations
        assert configuration.pipeline_stage == 1
        assert [spec.tensor_name for spec in configuration.sharding_spec] == ["t"]


def test_checksums_of_external_data_are_kept(tmp_path: pathlib.Path) -> None:
    onnx.save(detector(), tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=100)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.external_data:
            tensor.external_data.add(key="checksum", value="0" * 40)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert cli.main(["fuse", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "f.onnx"), "--no-verify"]) == 0
    fused = onnx.load(tmp_path / "f.onnx", load_external_data=False)
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    external = [tensor for tensor in fused.graph.initializer if tensor.external_data]
    assert external
    assert all(tensor == known[tensor.name] for tensor in external)


@pytest.mark.parametrize("place", ["model", "graph", "node", "tensor", "value"])
def test_fields_that_onnx_does_not_know_are_not_lost_in_silence(place: str) -> None:
    model = detector()
    graph = model.graph
    places = {"model": model, "graph": graph, "node": graph.node[0], "tensor": graph.initializer[0], "value": graph.input[0]}
    places[place].MergeFromString(b"\x9a\x3e\x03new")
    with pytest.raises(GnOnnxError, match="the field 995 of"):
        gn_onnx.fuse(model)


def reads_a_value(graph: GraphProto) -> None:
    graph.node.append(helper.make_node("Identity", ["gn.m"], ["loss"]))


def has_the_name(graph: GraphProto) -> None:
    graph.node.append(helper.make_node("Identity", ["y"], ["y/scale"]))


@pytest.mark.parametrize(("step", "name"), [(reads_a_value, "gn.m"), (has_the_name, "y/scale")])
def test_a_training_step_keeps_what_it_needs(step: Callable[[GraphProto], None], name: str) -> None:
    model = model_of(*chain())
    step(model.training_info.add().algorithm)
    with pytest.raises(GnOnnxError, match=name):
        gn_onnx.fuse(model)


@pytest.mark.parametrize("target", ["plugin", "onnx"])
def test_outputs_without_a_name_count(target: str) -> None:
    nodes, constants = chain()
    split = helper.make_node("Split", ["x"], ["a", "", "", ""], "split", axis=1)
    fused = gn_onnx.fuse(model_of([*nodes, split], constants, "y"), target=target).model
    assert list(next(node for node in fused.graph.node if node.name == "split").output) == ["a", "", "", ""]


def overloaded() -> ModelProto:
    """local::f:norm is a GroupNorm, local::f:act a Relu, and local::f:both calls the two."""
    nodes, constants = chain()
    filled = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in constants]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]

    def call(overload: str, x: str, y: str) -> NodeProto:
        return helper.make_node("f", [x], [y], domain="local", overload=overload)

    bodies = {
        "norm": [*filled, *nodes],
        "act": [helper.make_node("Relu", ["x"], ["y"])],
        "both": [call("norm", "x", "h"), call("act", "h", "y")],
    }
    functions = [
        helper.make_function("local", "f", ["x"], ["y"], body, opsets, overload=name) for name, body in bodies.items()
    ]
    return model_of([call("norm", "x", "z"), call("both", "z", "y")], [], "y", functions=functions)


def test_functions_of_one_name_and_several_overloads() -> None:
    model = overloaded()
    model_checks.check(model)
    fused = gn_onnx.fuse(model).model
    np.testing.assert_allclose(Evaluator(fused).run({"x": X})["y"], Evaluator(model).run({"x": X})["y"], atol=1e-6)
    found = verify.verify(model, fused)
    assert found.ok, found.reason
    assert {site.status for site in found.sites} == {"equal"}


def test_the_body_of_a_sequence_map_stays_as_it_is() -> None:
    pytest.importorskip("onnxruntime")
    nodes, constants = chain()
    body = helper.make_graph(nodes, "body", [float_("x")], [float_("y")])
    for node in body.node:
        node.input[:] = ["item" if name == "x" else name for name in node.input]
    body.input[0].name = "item"
    model = model_of(
        [
            helper.make_node("SequenceConstruct", ["x", "x"], ["items"]),
            helper.make_node("SequenceMap", ["items"], ["mapped"], body=body),
            helper.make_node("ConcatFromSequence", ["mapped"], ["out"], axis=0),
        ],
        constants,
        "",
    )
    model.graph.output.append(float_("out", 4, 8, 4, 5))
    result = gn_onnx.fuse(model)
    assert not result.fused
    assert "SequenceMap" in result.rejected[-1].reason
    assert run_ort(result.model, {"x": X})["out"].shape == (4, 8, 4, 5)


def test_a_call_that_stays_for_another_result_is_fused_once() -> None:
    nodes, constants = chain()
    filled = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in constants]
    body = [*filled, *nodes, helper.make_node("Neg", ["x"], ["other"])]
    function = helper.make_function("local", "f", ["x"], ["y", "other"], body, [helper.make_opsetid("", 17)])
    call = helper.make_node("f", ["x"], ["y", "other"], domain="local")
    once = gn_onnx.fuse(model_of([call], [], "y other", functions=[function])).model
    assert not gn_onnx.fuse(once).fused


def test_a_reshaped_group_norm_of_opset_21_is_fused_once() -> None:
    """Scales that a caller may replace are per group: what is fused is [N, G, M], behind a Reshape."""
    nodes, constants = chain()
    model = model_of(nodes, constants)
    model.graph.input.append(float_("gn.ones", 2))
    once = gn_onnx.fuse(model, target="onnx")
    assert len(once.fused) == 1
    assert not gn_onnx.fuse(once.model, target="onnx").fused


def test_sites_are_checked_whatever_the_domain_is_called_and_in_branches() -> None:
    model = model_of(*chain())
    for node in model.graph.node:
        node.domain = "ai.onnx"
    found = verify.check_sites(model, gn_onnx.fuse(model).model, input_shapes={"x": X.shape})
    assert [site.status for site in found] == ["equal"]
    nodes, constants = chain(y="z")
    branches = {name: helper.make_graph(nodes, name, [], [float_("z")]) for name in ("then_branch", "else_branch")}
    yes = numpy_helper.from_array(np.array(True), "yes")
    model = model_of([helper.make_node("If", ["yes"], ["y"], **branches)], [*constants, yes])
    found = verify.check_sites(model, gn_onnx.fuse(model).model, input_shapes={"x": X.shape})
    assert [site.status for site in found] == ["equal", "equal"]
