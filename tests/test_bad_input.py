"""Hostile models through the command line: one line that says why, an exit status, nothing harmed."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Callable

import onnx
import pytest
from hand_models import detector, fused_detector
from onnx import NodeProto, TensorProto, helper

import gn_onnx
from gn_onnx import cli
from gn_onnx.files import model_io


def with_attribute(make: Callable[[], onnx.ModelProto], op: str, name: str, value: object) -> onnx.ModelProto:
    """A model whose nodes of one operator have another value there; None: do not have it."""
    model = make()
    for node in (node for node in model.graph.node if node.op_type == op):
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend(kept + ([] if value is None else [helper.make_attribute(name, value)]))
    return model


def native() -> onnx.ModelProto:
    return gn_onnx.fuse(detector(), target="onnx").model


def fused() -> onnx.ModelProto:
    return fused_detector(detector())


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = detector()
    change(model)
    return model


def external(location: str, **more: str) -> onnx.ModelProto:
    model = detector()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        weight.external_data.add(key=key, value=value)
    return model


def recursive(names: str) -> onnx.ModelProto:
    """Functions that call the next one, the last the first."""
    model = detector()
    for name, callee in zip(names, names[1:] + names[0], strict=True):
        node = helper.make_node(callee, ["x"], ["y"], domain="local")
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        model.functions.append(helper.make_function("local", name, ["x"], ["y"], [node], opsets))
    model.graph.node.append(NodeProto(op_type=names[0], domain="local", input=["image"], output=["called"]))
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def calling(depth: int, times: int) -> onnx.ModelProto:
    """Functions that call the next one so many times, each, down to one that is a single node."""
    model = detector()
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for level in range(depth):
        names = ["x", *(f"h{i}" for i in range(times - 1)), "y"]
        nodes = [helper.make_node(f"f{level + 1}", [a], [b], domain="local") for a, b in itertools.pairwise(names)]
        model.functions.append(helper.make_function("local", f"f{level}", ["x"], ["y"], nodes, opsets))
    last = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("local", f"f{depth}", ["x"], ["y"], [last], opsets[:1]))
    model.graph.node.append(NodeProto(op_type="f0", domain="local", input=["image"], output=["called"]))
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def named(name: str) -> onnx.ModelProto:
    """A chain with an impossible epsilon, whose node has this name."""
    model = with_attribute(detector, "InstanceNormalization", "epsilon", float("nan"))
    for node in model.graph.node:
        node.name = name
    return model


def nested(depth: int) -> bytes:
    """A node in a graph in an attribute in a node and so on; protobuf itself refuses to build that."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    node = NodeProto(op_type="Identity", input=["image"], output=["t"]).SerializeToString()
    for _ in range(depth):
        node = NodeProto(op_type="If", input=["yes"]).SerializeToString() + field(5, field(6, field(1, node)))
    return detector().SerializeToString() + field(7, field(1, node))  # a second graph field is merged into the first


WHOLE = detector().SerializeToString()
BAD: dict[str, tuple[bytes | onnx.ModelProto, str]] = {
    "empty": (b"", "the file is empty"),
    "truncated": (WHOLE[:-100], "truncated"),
    "a page": (b"<html><body>404</body></html>", "not an ONNX model"),
    "an archive": (b"PK\x03\x04" * 40, "not an ONNX model"),
    "external data above the folder": (external("../secret"), "outside the model's folder"),
    "external data anywhere": (external("/etc/passwd"), "not a relative path"),
    "external data of negative length": (external("model.onnx", length="-4"), "not a number of bytes"),
    "external data beyond the end": (external("model.onnx", offset="99999999", length="864"), "the tensor needs bytes"),
    "negative dims of a tensor": (changed(lambda m: m.graph.initializer[0].dims.__setitem__(0, -8)), "negative dimension"),
    "huge dims of a tensor": (changed(lambda m: m.graph.initializer[0].dims.extend([1 << 40, 1 << 40])), "damaged"),
    "negative dims of an input": (
        changed(lambda m: m.graph.input[0].type.tensor_type.shape.dim[2].__setattr__("dim_value", -1)),
        "negative dimension",
    ),
    "a cycle": (changed(lambda m: m.graph.node[0].input.__setitem__(0, "features")), "cycle"),
    "a dangling name": (changed(lambda m: m.graph.node[0].input.__setitem__(0, "nobody")), "'nobody'"),
    "a dangling output": (changed(lambda m: m.graph.output[0].__setattr__("name", "nobody")), "'nobody'"),
    "a function that calls itself": (recursive("a"), "local::a calls itself"),
    "functions that call one another": (recursive("abc"), "calls itself"),
    "functions that double forty times": (calling(40, 2), "stands for"),
    "functions in functions in functions": (calling(300, 1), "calls 101 deep"),
    "a name of several lines": (named("gn\nonnx: ok\r\n"), "gn\\nonnx: ok\\r\\n"),
    "a name that clears the terminal": (named("\x1b[2J\x1b]0;title\x07"), "\\x1b[2J\\x1b]0;title\\x07"),
    "a name of a megabyte": (named("x" * 1_000_000), "epsilon is nan"),
    "an attribute of no type": (
        changed(lambda m: m.graph.node[1].attribute.append(onnx.AttributeProto(name="what"))),
        "'what' has no type",
    ),
    "too many levels": (nested(5000), "truncated, or not an ONNX model"),
    **{
        f"{name}, {attribute} {value}": (with_attribute(make, op, attribute, value), words)
        for name, make, op in (
            ("a chain", detector, "InstanceNormalization"),
            ("native", native, "GroupNormalization"),
            ("fused", fused, "GroupNormalization"),
        )
        for attribute, value, words in (
            ("epsilon", float("nan"), "epsilon is nan"),
            ("epsilon", float("inf"), "epsilon is inf"),
            ("epsilon", 3, "'epsilon' is of type INT, not FLOAT"),
            ("epsilon", [1e-5], "'epsilon' is of type FLOATS, not FLOAT"),
            ("num_groups", 0, "num_groups is 0, expected at least 1"),
            ("num_groups", -(1 << 63), "num_groups is -9223372036854775808"),
            ("num_groups", 2.0, "'num_groups' is of type FLOAT, not INT"),
            ("num_groups", "two", "'num_groups' is of type STRING, not INT"),
            ("num_groups", None, "lacks the attribute 'num_groups'"),
        )
        if name != "a chain" or attribute == "epsilon"
    },
}
COMMANDS = [["fuse", "-o", "out.onnx"], ["fuse", "--in-place"], ["fuse", "--check"], ["explain"],
            ["unfuse", "-o", "out.onnx"], ["parity", "--against", "model.onnx"], ["parity", "--against", "good"],
            ["bench"], ["report", "-o", "out.html"], ["triton", "-o", "models"]]  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_model_is_one_line_and_status_2(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, words = BAD[name]
    data = content if isinstance(content, bytes) else content.SerializeToString()
    (tmp_path / "secret").write_bytes(bytes(10_000))
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = folder / "model.onnx"
    path.write_bytes(data)
    (folder / "good").write_bytes(WHOLE)
    for command, *options in [*COMMANDS, ["parity", "--against"]]:
        first, *rest = ["good", *options, "model.onnx"] if options == ["--against"] else ["model.onnx", *options]
        assert cli.main([command, first, *rest]) == 2, command
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("gn-onnx: error: model.onnx: "), said.err
        assert words in said.err
        assert len(said.err.splitlines()) == 1, said.err
        assert len(said.err) < 3000
        assert path.read_bytes() == data
        assert sorted(file.name for file in folder.iterdir()) == ["good", "model.onnx"]


@pytest.mark.parametrize("size", [1 << 20, 1 << 61])
def test_an_input_too_large_for_any_machine_is_not_made_data_for(
    size: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = detector()
    for dim in list(model.graph.input[0].type.tensor_type.shape.dim)[2:]:
        dim.dim_value = size
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert cli.main(["fuse", str(path)]) == 2
    assert "too large to make data for" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


DEEP = {
    ".onnxtxt": (
        '<ir_version: 8, opset_import: ["" : 17]>\ng (float[N] x, bool yes) => (float[N] t) {\n',
        "t = If (yes) <then_branch = b () => (float[N] t) {\n",
        "t = Identity(x)\n",
        "}>\n",
        "}",
    ),
    ".textproto": (
        'ir_version: 8 opset_import { version: 17 } graph { name: "g" output { name: "t" } ',
        'node { op_type: "If" input: "yes" attribute { name: "then_branch" type: GRAPH g { name: "b" ',
        'node { op_type: "Identity" input: "x" output: "t" } ',
        "} } } ",
        "}",
    ),
    ".json": (
        '{"irVersion": "8", "opsetImport": [{"version": "17"}], "graph": {"name": "g", "node": [',
        '{"opType": "If", "attribute": [{"name": "then_branch", "type": "GRAPH", "g": {"name": "b", "node": [',
        '{"opType": "Identity", "input": ["x"], "output": ["t"]}',
        "]}}]}",
        "]}}",
    ),
}


@pytest.mark.parametrize("suffix", DEEP)
@pytest.mark.parametrize("depth", [150, 100_000])
def test_text_that_is_nested_too_deep(
    suffix: str, depth: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX's parser calls itself for every bracket: a hundred thousand end the process."""
    head, opening, inner, closing, tail = DEEP[suffix]
    path = tmp_path / f"model{suffix}"
    path.write_text(head + depth * opening + inner + depth * closing + tail)
    assert cli.main(["explain", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"gn-onnx: error: {path}: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("number", ["99999999999999999999", "-99999999999999999999", "1e999999", "0x"])
def test_text_with_a_number_that_nothing_holds(number: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.onnxtxt"
    text = '<ir_version: 8, opset_import: ["" : 17]>\ng (float[N] x) => (float[N] y) {\ny = Relu<alpha = NUMBER>(x)\n}\n'
    path.write_text(text.replace("NUMBER", number))
    status = cli.main(["explain", str(path)])
    assert status in (0, 2)
    path.write_text(text.replace("17", number))
    assert cli.main(["explain", str(path)]) == 2


def test_brackets_in_strings_and_comments_do_not_count(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.onnxtxt"
    head = '<ir_version: 8, opset_import: ["" : 17], producer_name: "' + "(" * 300 + '\\"{">\n'
    path.write_text(head + "g (float[N] x) => (float[N] y) {\n# " + "[" * 300 + "\ny = Relu(x)\n}\n")
    assert model_io.load_proto(path).graph.node[0].op_type == "Relu"


@pytest.mark.parametrize("command", ["fuse", "unfuse", "report"])
def test_external_data_is_not_replaced_by_the_result(
    command: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the model's own, nor a copy of it beside a result in another folder."""
    model, weights = tmp_path / "model.onnx", tmp_path / "weights"
    onnx.save(detector(), model, save_as_external_data=True, location="weights", size_threshold=0)
    before = {path: path.read_bytes() for path in (model, weights)}
    (tmp_path / "link").symlink_to(weights)
    (tmp_path / "other").mkdir()
    for output in ("weights", "link", "other/weights"):
        assert cli.main([command, str(model), "-o", str(tmp_path / output)]) == 2
        assert "external data ('weights')" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in before} == before
        assert not any((tmp_path / "other").iterdir())


def test_devices_and_pipes_are_not_read(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """/dev/zero has no end, and a pipe without a writer waits for ever."""
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", str(tmp_path / "pipe")):
        assert cli.main(["explain", path]) == 2
        assert capsys.readouterr().err == f"gn-onnx: error: {path}: is a device, pipe or socket, not a file\n"
