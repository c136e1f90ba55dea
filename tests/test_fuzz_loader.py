"""The loader and the command line on files that no exporter wrote: an exit status each, never a traceback.

A short run is part of every test run; `GN_ONNX_FUZZ=20000` makes each test that long.
"""

from __future__ import annotations

import os
import pathlib
import tempfile

import onnx
import pytest
from hand_models import detector, fused_detector, without_group_norm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper

import gn_onnx
from gn_onnx import cli

LONG = settings(
    max_examples=int(os.environ.get("GN_ONNX_FUZZ", "15")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

SEEDS = [detector(), fused_detector(detector()), without_group_norm()]
BYTES = [seed.SerializeToString() for seed in SEEDS]


def attempt(content: bytes, suffix: str = ".onnx", *options: str) -> None:
    """Fuse and explain a file; whatever it is, the promises of the command line hold."""
    with tempfile.TemporaryDirectory() as folder:
        path, output = pathlib.Path(folder) / f"model{suffix}", pathlib.Path(folder) / "out.onnx"
        path.write_bytes(content)
        status = cli.main(["fuse", str(path), "-o", str(output), *options])
        assert status in (0, 1, 2)
        assert output.exists() == (status == 0)
        assert path.read_bytes() == content
        assert {file.name for file in pathlib.Path(folder).iterdir()} <= {path.name, output.name}
        if status == 0:
            assert cli.main(["fuse", "--check", str(output)]) in (0, 2)
        assert cli.main(["explain", str(path), "--json"]) in (0, 2)


@LONG
@given(st.binary(max_size=300), st.sampled_from([".onnx", ".textproto", ".json", ".onnxtxt"]))
def test_random_bytes(content: bytes, suffix: str) -> None:
    attempt(content, suffix)


@LONG
@given(
    st.sampled_from(BYTES),
    st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 1 << 30),
    st.booleans(),
)
def test_damaged_bytes(content: bytes, changes: list[tuple[int, int]], end: int, cut: bool) -> None:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    attempt(bytes(damaged[: end % len(damaged)] if cut else damaged), ".onnx", "--no-verify")


def change_attribute(model: onnx.ModelProto, draw: st.DataObject) -> None:
    node = draw.draw(st.sampled_from(list(model.graph.node)))
    names = [attribute.name for attribute in node.attribute] or ["epsilon", "num_groups", "axes", "axis"]
    name = draw.draw(st.sampled_from(names))
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    value = draw.draw(
        st.one_of(
            st.integers(-(1 << 63), (1 << 63) - 1), st.floats(), st.binary(max_size=8),
            st.lists(st.integers(-5, 1 << 40), min_size=1, max_size=4), st.lists(st.floats(), min_size=1, max_size=3),
        )
    )  # fmt: skip
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def change_type_only(model: onnx.ModelProto, draw: st.DataObject) -> None:
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if attributes:
        attribute = draw.draw(st.sampled_from(attributes))
        attribute.type = draw.draw(st.sampled_from(AttributeProto.AttributeType.values()))


def change_wire(model: onnx.ModelProto, draw: st.DataObject) -> None:
    node = draw.draw(st.sampled_from(list(model.graph.node)))
    names = sorted({name for other in model.graph.node for name in (*other.input, *other.output)} | {"", "nobody"})
    fields = [field for field in (node.input, node.output) if field]
    if fields:
        field = draw.draw(st.sampled_from(fields))
        field[draw.draw(st.integers(0, len(field) - 1))] = draw.draw(st.sampled_from(names))


def change_arity(model: onnx.ModelProto, draw: st.DataObject) -> None:
    node = draw.draw(st.sampled_from(list(model.graph.node)))
    field = draw.draw(st.sampled_from([node.input, node.output]))
    if field and draw.draw(st.booleans()):
        del field[draw.draw(st.integers(0, len(field) - 1)) :]
    else:
        field.append(draw.draw(st.sampled_from(["", "image", "more"])))


def change_operator(model: onnx.ModelProto, draw: st.DataObject) -> None:
    node = draw.draw(st.sampled_from(list(model.graph.node)))
    operators = [
        "Reshape",
        "Mul",
        "Shape",
        "InstanceNormalization",
        "Concat",
        "GroupNormalization",
        "If",
        "Cast",
        "",
    ]
    node.op_type = draw.draw(st.sampled_from(operators))
    node.domain = draw.draw(st.sampled_from(["", "ai.onnx", "gn_onnx", "com.microsoft", "nobody"]))


def change_tensor(model: onnx.ModelProto, draw: st.DataObject) -> None:
    if model.graph.initializer:
        tensor = draw.draw(st.sampled_from(list(model.graph.initializer)))
        if draw.draw(st.booleans()):
            tensor.dims[:] = draw.draw(st.lists(st.integers(-3, 1 << 50), max_size=5))
        else:
            tensor.data_type = draw.draw(st.sampled_from([*TensorProto.DataType.values(), 99]))
        if draw.draw(st.booleans()):
            count = draw.draw(st.integers(0, 64))
            tensor.raw_data = draw.draw(st.binary(min_size=count, max_size=count))


def change_shape(model: onnx.ModelProto, draw: st.DataObject) -> None:
    value = draw.draw(st.sampled_from([*model.graph.input, *model.graph.output]))
    kind = draw.draw(st.sampled_from(["dims", "none", "no type", "sequence", "element"]))
    if kind == "dims":
        del value.type.tensor_type.shape.dim[:]
        for size in draw.draw(st.lists(st.one_of(st.integers(-2, 1 << 62), st.text(max_size=3)), max_size=6)):
            dim = value.type.tensor_type.shape.dim.add()
            if isinstance(size, int):
                dim.dim_value = size
            else:
                dim.dim_param = size
    elif kind == "none":
        value.type.tensor_type.ClearField("shape")
    elif kind == "no type":
        value.ClearField("type")
    elif kind == "sequence":
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    else:
        value.type.tensor_type.elem_type = draw.draw(st.integers(0, 40))


def change_order(model: onnx.ModelProto, draw: st.DataObject) -> None:
    nodes = draw.draw(st.permutations(list(model.graph.node)))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies[: draw.draw(st.integers(0, len(copies)))])


def change_versions(model: onnx.ModelProto, draw: st.DataObject) -> None:
    model.ir_version = draw.draw(st.integers(-1, 100))
    del model.opset_import[:]
    for domain in draw.draw(st.lists(st.sampled_from(["", "ai.onnx", "gn_onnx", "nobody"]), max_size=4)):
        model.opset_import.append(helper.make_opsetid(domain, draw.draw(st.integers(-(1 << 40), 1 << 40))))


CHANGES = [
    change_attribute, change_type_only, change_wire, change_arity, change_operator, change_tensor, change_shape,
    change_order, change_versions,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@LONG
@given(data=st.data())
def test_models_with_something_changed(change, data: st.DataObject) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 3))):
        change(model, data)
    attempt(model.SerializeToString(), ".onnx", "--no-verify")


@settings(LONG, max_examples=max(5, LONG.max_examples // 8))
@given(data=st.data())
def test_changed_models_verified(data: st.DataObject) -> None:
    """Also ONNX Runtime and the reference evaluator see them; whatever those say becomes an exit status."""
    model = onnx.ModelProto()
    model.CopyFrom(data.draw(st.sampled_from(SEEDS)))
    for change in data.draw(st.lists(st.sampled_from(CHANGES[:6]), min_size=1, max_size=2)):
        change(model, data)
    attempt(model.SerializeToString())


@pytest.mark.parametrize("element", [*TensorProto.DataType.values(), 99])
def test_found_an_input_of_any_element_type(element: int) -> None:
    """Only floating types can be normalised; text came as far as a constant of its type."""
    model = onnx.ModelProto()
    model.CopyFrom(SEEDS[0])
    model.graph.input[0].type.tensor_type.elem_type = element
    floating = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.UNDEFINED}
    attempt(model.SerializeToString(), ".onnx", "--no-verify")
    if element in TensorProto.DataType.values():
        assert bool(gn_onnx.fuse(model).fused) <= (element in floating)
