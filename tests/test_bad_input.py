"""Hostile models and failing disks through the command line: one line that says why, an exit status, nothing harmed."""

from __future__ import annotations

import errno
import os
import pathlib
import resource
import signal
import subprocess
import sys
from collections.abc import Callable

import onnx
import pytest
from hand_models import detector, fused_detector
from onnx import NodeProto, TensorProto, helper

import gn_onnx
from gn_onnx import cli
from gn_onnx.files import model_io

ROOT = pathlib.Path(__file__).parent.parent


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
COMMANDS = [["fuse", "-o", "out.onnx"], ["fuse", "--in-place"], ["explain"], ["unfuse", "-o", "out.onnx"],
            ["parity", "--against", "model.onnx"], ["bench"], ["report", "-o", "out.html"]]  # fmt: skip


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
    for command, *options in COMMANDS:
        assert cli.main([command, "model.onnx", *options]) == 2, command
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("gn-onnx: error: model.onnx: "), said.err
        assert words in said.err
        assert said.err.count("\n") == 1, said.err
        assert path.read_bytes() == data
        assert [file.name for file in folder.iterdir()] == ["model.onnx"]


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


FAILURES = {
    "read-only file system": ("open", errno.EROFS),
    "folder of somebody else": ("open", errno.EACCES),
    "no inode left": ("open", errno.ENOSPC),
    "disk full when flushed": ("fsync", errno.ENOSPC),
    "over the quota": ("fsync", errno.EDQUOT),
    "broken disk": ("fsync", errno.EIO),
    "no room for the name": ("link", errno.ENOSPC),
    "the name cannot be taken": ("replace", errno.EPERM),
}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("what", FAILURES)
def test_a_disk_that_fails_costs_nothing(
    what: str,
    in_place: bool,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By errors of the operating system's calls, so that it holds for root too."""
    call, number = FAILURES[what]
    model, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    model.write_bytes(WHOLE)
    output.write_bytes(b"what was there")
    real = getattr(os, call)

    def failing(path: object, *arguments: object, **named: object) -> object:
        if call == "open" and not arguments[0] & (os.O_WRONLY | os.O_RDWR):  # reading still works
            return real(path, *arguments, **named)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, failing)
    options = ["--in-place"] if in_place else ["-o", str(output)]
    status = cli.main(["fuse", str(model), "--no-verify", *options])
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert status == 2
    assert f"cannot write: {os.strerror(number)}; nothing was changed" in said
    assert said.count("\n") == 1
    assert model.read_bytes() == WHOLE
    assert output.read_bytes() == b"what was there"
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "out.onnx"}


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_process_killed_while_it_writes_leaves_the_original(place: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(WHOLE)
    script = (
        f"import os, signal, sys; from gn_onnx import cli\n"
        f"os.{place} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "cli.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, "fuse", str(path), "--in-place", "--no-verify"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert path.read_bytes() == WHOLE
    assert cli.main(["fuse", str(path), "--in-place", "--no-verify"]) == 0  # and what is left over is in nobody's way
    assert gn_onnx.fuse(model_io.load_model(path)).fused == ()


def test_a_file_that_may_not_grow_is_an_error_of_the_whole_program(tmp_path: pathlib.Path) -> None:
    """A limit on file sizes stands in for a disk that fills up in the middle."""
    path = tmp_path / "model.onnx"
    path.write_bytes(detector(channels=64).SerializeToString())
    before = path.read_bytes()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = [sys.executable, "-m", "gn_onnx", "fuse", str(path), "--in-place", "--no-verify"]
    done = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"gn-onnx: error: {path}: cannot write: File too large; nothing was changed\n"
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_devices_and_pipes_are_not_replaced(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As root, taking the place of /dev/null would remove it."""
    path, pipe = tmp_path / "model.onnx", tmp_path / "pipe"
    path.write_bytes(WHOLE)
    os.mkfifo(pipe)
    (tmp_path / "null").symlink_to("/dev/null")
    for output in (pipe, tmp_path / "null"):
        assert cli.main(["fuse", str(path), "--no-verify", "-o", str(output)]) == 2
        assert "is a device, pipe or socket" in capsys.readouterr().err
    assert pipe.is_fifo()
    assert pathlib.Path("/dev/null").is_char_device()
