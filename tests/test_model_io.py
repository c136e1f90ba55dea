"""Reading and writing files: whatever is wrong with one becomes one error that names it, and nothing is lost."""

from __future__ import annotations

import os
import pathlib
import resource
import subprocess
import sys
import textwrap

import numpy as np
import onnx
import pytest
from hand_models import detector
from onnx import TensorProto, helper, numpy_helper

from gn_onnx.errors import GnOnnxError
from gn_onnx.files import external_data, model_io


def write(path: pathlib.Path, model: onnx.ModelProto) -> pathlib.Path:
    path.write_bytes(model.SerializeToString())
    return path


def external_detector(folder: pathlib.Path, location: str = "weights/model.data") -> pathlib.Path:
    """The detector with its two convolution weights in one data file."""
    model = detector()
    offset = 0
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    with open(folder / location, "wb") as data:
        for tensor in model.graph.initializer:
            if tensor.name.startswith("w"):
                raw = tensor.raw_data
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in (("location", location), ("offset", offset), ("length", len(raw))):
                    tensor.external_data.add(key=key, value=str(value))
                data.write(raw)
                offset += len(raw)
    return write(folder / "model.onnx", model)


def bad(change) -> onnx.ModelProto:
    model = detector()
    change(model)
    return model


BROKEN = {
    "dangling input": (
        lambda m: m.graph.node[0].input.__setitem__(0, "nobody"),
        "'nobody' of node Conv 'conv0'",
    ),
    "output computed by no node": (lambda m: m.graph.output[0].__setattr__("name", "nobody"), "'nobody'"),
    "computed twice": (lambda m: m.graph.node.append(m.graph.node[-1]), "computed twice"),
    "cycle": (lambda m: m.graph.node[0].input.__setitem__(0, "features"), "cycle"),
    "negative dims": (lambda m: m.graph.initializer[0].dims.__setitem__(0, -8), "negative dimension"),
    "negative input dims": (
        lambda m: m.graph.input[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", -3),
        "negative dimension",
    ),
    "huge dims": (lambda m: m.graph.initializer[0].dims.extend([1 << 40, 1 << 40]), "damaged"),
    "data of another size": (lambda m: m.graph.initializer[0].dims.__setitem__(0, 9), "needs 972 bytes"),
    "no operator type": (lambda m: m.graph.node[0].ClearField("op_type"), "no operator type"),
    "an attribute without a type, of an operator that nobody knows": (
        lambda m: m.graph.node.append(
            onnx.NodeProto(op_type="Nobody", input=["image"], output=["no"], attribute=[onnx.AttributeProto(name="a")])
        ),
        "attribute 'a' has no type",
    ),
    "no opset": (lambda m: m.ClearField("opset_import"), "operator set"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_graph_is_one_error_that_names_file_and_place(tmp_path: pathlib.Path, name: str) -> None:
    change, message = BROKEN[name]
    path = write(tmp_path / "model.onnx", bad(change))
    with pytest.raises(GnOnnxError) as caught:
        model_io.load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 100, -100, -1])
def test_truncated_and_empty_files(tmp_path: pathlib.Path, length: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(detector().SerializeToString()[:length])
    with pytest.raises(GnOnnxError, match="model.onnx"):
        model_io.load_model(path)


@pytest.mark.parametrize("content", [b"<html></html>", b"\x80\x02}q\x00.", os.urandom(4096), b"PK\x03\x04" * 64])
def test_files_of_another_kind(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(GnOnnxError, match="ONNX"):
        model_io.load_model(path)


@pytest.mark.parametrize("path", ["missing.onnx", ".", "a\0b.onnx", "x" * 5000])
def test_paths_that_cannot_be_read(tmp_path: pathlib.Path, path: str) -> None:
    with pytest.raises(GnOnnxError, match="cannot read"):
        model_io.load_model(tmp_path / path)


def test_recursive_functions(tmp_path: pathlib.Path) -> None:
    def add_functions(model: onnx.ModelProto) -> None:
        for name, callee in (("a", "b"), ("b", "a")):
            node = helper.make_node(callee, ["x"], ["y"], domain="local")
            opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
            model.functions.append(helper.make_function("local", name, ["x"], ["y"], [node], opsets))

    path = write(tmp_path / "model.onnx", bad(add_functions))
    with pytest.raises(GnOnnxError, match="local::. calls itself"):
        model_io.load_model(path)


def test_a_subgraph_may_use_outer_values_and_may_not_wait_for_its_own_node(tmp_path: pathlib.Path) -> None:
    def branch(value: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("Identity", [value], ["t"])], "branch", [], [output])

    def add_if(model: onnx.ModelProto, value: str) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        branches = {"then_branch": branch(value), "else_branch": branch("image")}
        model.graph.node.insert(0, helper.make_node("If", ["yes"], ["chosen"], "if", **branches))

    good = detector()
    add_if(good, "image")
    assert model_io.load_model(write(tmp_path / "good.onnx", good)).graph[0].op_type == "If"
    cyclic = detector()
    add_if(cyclic, "features")
    cyclic.graph.node[1].input[0] = "chosen"
    with pytest.raises(GnOnnxError, match="cycle"):
        model_io.load_model(write(tmp_path / "cyclic.onnx", cyclic))


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("/etc/passwd", "not a relative path"),
        ("../outside.data", "outside the model's folder"),
        ("weights/../../outside.data", "outside the model's folder"),
        ("link.data", "is a link to"),
        ("gone.data", "is missing"),
        ("short.data", "ends at byte 3"),
        ("", "no location"),
        ("a\0b", "not a relative path"),
    ],
)
def test_hostile_external_data(tmp_path: pathlib.Path, location: str, message: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "outside.data").write_bytes(bytes(10_000))
    (folder / "link.data").symlink_to(tmp_path / "outside.data")
    (folder / "short.data").write_bytes(b"abc")
    path = external_detector(folder)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if external_data.is_external(tensor):
            tensor.external_data[0].value = location
    with pytest.raises(GnOnnxError, match=message):
        model_io.load_model(write(path, model))


@pytest.mark.parametrize("value", ["-1", "1e3", "٣", "9" * 30, " 1"])
def test_offsets_that_are_not_natural_numbers(tmp_path: pathlib.Path, value: str) -> None:
    path = external_detector(tmp_path)
    model = onnx.load(path, load_external_data=False)
    external = next(tensor for tensor in model.graph.initializer if external_data.is_external(tensor))
    external.external_data[1].value = value
    with pytest.raises(GnOnnxError, match="not a number of bytes"):
        model_io.load_model(write(path, model))


@pytest.mark.parametrize("name", ["m.onnx", "m.textproto", "m.json", "m.onnxtxt", "m.unknown"])
def test_formats_round_trip_and_are_deterministic(tmp_path: pathlib.Path, name: str) -> None:
    model = model_io.load_model(write(tmp_path / "model.onnx", detector()))
    model_io.save(model, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    model_io.save(model_io.load_model(tmp_path / name), tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert [node.op_type for node in model_io.load_model(tmp_path / name).graph] == [
        n.op_type for n in detector().graph.node
    ]


def test_external_data_is_copied_beside_an_output_in_another_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = external_detector(tmp_path / "in")
    output = tmp_path / "out" / "fused.onnx"
    model_io.save(model_io.load_model(path), output, data_folder=path.parent)
    assert onnx.load(output).graph.initializer[0].raw_data == onnx.load(path).graph.initializer[0].raw_data
    model_io.save(model_io.load_model(path), output, data_folder=path.parent)  # equal data is no conflict
    (tmp_path / "out/weights/model.data").write_bytes(b"somebody else's")
    with pytest.raises(GnOnnxError, match="differs"):
        model_io.save(model_io.load_model(path), output, data_folder=path.parent)
    assert (tmp_path / "out/weights/model.data").read_bytes() == b"somebody else's"


def test_external_data_in_the_same_folder_is_not_touched(tmp_path: pathlib.Path) -> None:
    path = external_detector(tmp_path)
    before = (tmp_path / "weights/model.data").stat()
    model_io.save(model_io.load_model(path), path, data_folder=path.parent)
    after = (tmp_path / "weights/model.data").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    onnx.checker.check_model(str(path))


def test_the_old_file_and_the_folder_stay_as_they_were_when_writing_fails(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    model = model_io.load_model(external_detector(tmp_path / "in"))
    output = tmp_path / "out" / "model.onnx"
    output.write_bytes(b"old")

    synced: list[int] = []

    def full_on_second(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 2:  # the data file and its folder come first
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_on_second)
    with pytest.raises(GnOnnxError, match="No space left"):
        model_io.save(model, output, data_folder=tmp_path / "in")
    assert output.read_bytes() == b"old"
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["model.onnx"]


def test_missing_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(GnOnnxError, match="cannot write: there is no folder"):
        model_io.save(detector(), tmp_path / "nowhere" / "model.onnx")


def test_file_size_limit_stands_in_for_a_full_disk(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "in.onnx", detector(channels=256))
    script = textwrap.dedent("""
        import os, resource, signal, sys
        from gn_onnx.files import model_io
        from gn_onnx.errors import GnOnnxError
        os.chdir(sys.argv[1])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            model_io.save(model_io.load_model("in.onnx"), "out.onnx")
        except GnOnnxError as error:
            print(error)
    """)
    command = [sys.executable, "-c", script, str(tmp_path)]
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "out.onnx: cannot write" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_permissions_and_links_are_kept(tmp_path: pathlib.Path) -> None:
    real = write(tmp_path / "real.onnx", detector())
    real.chmod(0o640)
    link = tmp_path / "link.onnx"
    link.symlink_to(real)
    model_io.save(model_io.load_model(link), link)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640


def test_three_gigabytes_of_external_data_are_not_loaded(tmp_path: pathlib.Path) -> None:
    model = detector()
    size = 3 << 30
    with open(tmp_path / "big.data", "wb") as data:
        data.truncate(size)  # sparse: takes no disk
    big = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[size // 4], data_location=TensorProto.EXTERNAL)
    big.external_data.add(key="location", value="big.data")
    model.graph.initializer.append(big)
    model.graph.node.append(helper.make_node("ReduceMax", ["big"], ["largest"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("largest", TensorProto.FLOAT, []))
    path = write(tmp_path / "model.onnx", model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model_io.save(model_io.load_model(path), tmp_path / "copy.onnx", data_folder=tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    assert (tmp_path / "copy.onnx").stat().st_size < 100_000


def test_what_onnx_ir_has_no_place_for_is_kept() -> None:
    model = detector()
    values = numpy_helper.from_array(np.array([1.0], np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([[0, 0]], np.int64), "where")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 2]))
    model.graph.node.append(helper.make_node("Identity", ["sparse"], ["copy"]))
    model.training_info.add().algorithm.name = "training"
    model.metadata_props.add(key="author", value="hand")
    again = model_io.to_proto(model_io.to_ir(model), like=model)
    assert again.graph.sparse_initializer == model.graph.sparse_initializer
    assert again.training_info == model.training_info
    assert again.metadata_props == model.metadata_props
