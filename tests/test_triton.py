"""Model repositories for Triton: what is in them, by Triton's schema, and that nothing half-written stays."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
import triton_schema
from google.protobuf import text_format
from hand_models import detector, fused_detector, without_group_norm
from onnx import TensorProto, helper

import gn_onnx
from gn_onnx import cli
from gn_onnx.serving import triton_config

CLIENT = "tritonclient==2.73.0"


def write(path: pathlib.Path, model: onnx.ModelProto) -> pathlib.Path:
    path.write_bytes(model.SerializeToString())
    return path


def parse(folder: pathlib.Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), triton_schema.model_config()())


def identity(*shapes: list[int | str | None], dtype: int = TensorProto.FLOAT, opset: int = 17) -> onnx.ModelProto:
    """Input i, of the i-th shape, to output i."""
    nodes = [helper.make_node("Identity", [f"x{i}"], [f"y{i}"]) for i in range(len(shapes))]
    inputs = [helper.make_tensor_value_info(f"x{i}", dtype, shape) for i, shape in enumerate(shapes)]
    outputs = [helper.make_tensor_value_info(f"y{i}", dtype, shape) for i, shape in enumerate(shapes)]
    graph = helper.make_graph(nodes, "identity", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def config(model: onnx.ModelProto, **settings: Any) -> Any:
    made = triton_config.make(model, triton_config.Settings(name="m", library="/models/m/lib.so", **settings))
    return text_format.Parse(made.text, triton_schema.model_config()())


def test_a_fused_detector(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, repository = write(tmp_path / "detector.gn.onnx", fused_detector(detector())), tmp_path / "a" / "models"
    assert cli.main(["triton", str(model), "-o", str(repository), "--server-path", "/models", "--instances", "2"]) == 0
    folder = repository / "detector"
    found = sorted(str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file())
    assert found == ["detector/1/model.onnx", "detector/config.pbtxt", "detector/libgn_onnx_ops.so"]
    assert onnx.load(folder / "1" / "model.onnx") == fused_detector(detector())
    assert (folder / "libgn_onnx_ops.so").read_bytes() == gn_onnx.library_path().read_bytes()
    written = parse(folder)
    assert (written.name, written.backend, written.max_batch_size) == ("detector", "onnxruntime", 8)
    assert list(written.model_operations.op_library_filename) == ["/models/detector/libgn_onnx_ops.so"]
    assert written.dynamic_batching.max_queue_delay_microseconds == 100
    assert [(group.count, group.kind) for group in written.instance_group] == [(2, 0)]
    assert [(t.name, t.data_type, list(t.dims)) for t in written.input] == [("image", 11, [3, -1, -1])]
    assert [(t.name, t.data_type, list(t.dims)) for t in written.output] == [("features", 11, [8, -1, -1])]
    said = capsys.readouterr().err
    assert "batches      of up to 8" in said
    assert ("no CUDA kernels" in said) == (not gn_onnx.build_info()["cuda"])


@pytest.mark.ort
def test_what_was_written_runs(tmp_path: pathlib.Path) -> None:
    """As the server does it: the model's file and the library's path, nothing of this package."""
    ort = pytest.importorskip("onnxruntime")
    model = write(tmp_path / "detector.onnx", fused_detector(detector()))
    assert cli.main(["triton", str(model), "-o", str(tmp_path / "models")]) == 0
    options = ort.SessionOptions()
    options.register_custom_ops_library(parse(tmp_path / "models" / "detector").model_operations.op_library_filename[0])
    file = tmp_path / "models" / "detector" / "1" / "model.onnx"
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": np.zeros((2, 3, 4, 5), np.float32)})[0].shape == (2, 8, 4, 5)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ([["N", 3], ["N", 3, "H"]], ""),
        ([["N", 3], ["M", 3]], "'x1' is not known to be that of 'x0'"),
        ([[None, 3]], "'x0' is not known to be that of 'x0'"),
        ([[1, 3]], "the first dimension of 'x0' is 1"),
        ([["N", 3], []], "'x1' is a scalar"),
    ],
    ids=["one symbol", "two symbols", "no name", "fixed", "scalar"],
)
def test_when_requests_are_batched(shapes: list[list[int | str | None]], reason: str) -> None:
    made = triton_config.make(identity(*shapes), triton_config.Settings(name="m", library="lib.so"))
    assert reason in made.reason
    written = config(identity(*shapes))
    assert written.max_batch_size == (0 if reason else 8)
    assert written.HasField("dynamic_batching") == (not reason)


def test_a_number_of_detections_is_no_batch() -> None:
    model = identity(["N", 4])
    model.graph.node[0].CopyFrom(helper.make_node("NonZero", ["x0"], ["y0"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y0", TensorProto.INT64, ["N", "K"]))
    assert config(model).max_batch_size == 0
    with pytest.raises(gn_onnx.GnOnnxError, match="'y0' is not symbolic"):
        config(model, max_batch_size=4)


def test_sizes_of_outputs_are_inferred() -> None:
    model = identity(["N", 3, "H"])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y0", TensorProto.FLOAT, ["out_0", "out_1", "out_2"]))
    written = config(model)
    assert written.max_batch_size == 8
    assert list(written.output[0].dims) == [3, -1]


def test_batching_asked_for_and_not() -> None:
    assert config(identity([None, 3]), max_batch_size=4).max_batch_size == 4
    written = config(identity(["N", 3]), max_batch_size=0, kind="cpu")
    assert (written.max_batch_size, list(written.input[0].dims)) == (0, [-1, 3])
    assert written.instance_group[0].kind == 2


def test_scalars_and_vectors_of_the_batch() -> None:
    written = config(identity([], ["N"]))
    assert [(list(t.dims), t.HasField("reshape")) for t in written.input] == [([1], False), ([-1], False)]
    written = config(identity(["N"]))
    assert list(written.input[0].dims) == [1]
    assert written.input[0].HasField("reshape")
    assert list(written.input[0].reshape.shape) == []


def test_defaults_are_optional_and_old_initializers_are_no_inputs() -> None:
    model = identity(["N", 3], ["N", 3])
    model.graph.initializer.append(helper.make_tensor("x1", TensorProto.FLOAT, [1, 3], [0.0] * 3))
    assert [tensor.optional for tensor in config(model).input] == [False, True]
    model.ir_version = 3
    assert [tensor.name for tensor in config(model).input] == ["x0"]


@pytest.mark.parametrize("dtype", [t for t in triton_schema.ENUMS["DataType"] if t != "TYPE_INVALID"])
def test_every_type(dtype: str) -> None:
    kind = next(number for number, name in triton_config._TYPES.items() if name == dtype)
    written = config(identity(["N", 2], dtype=kind))
    assert written.input[0].data_type == triton_schema.ENUMS["DataType"].index(dtype)


def test_names_are_quoted() -> None:
    model = identity(["N", 2])
    name = 'a"b\\c\nd/é\x01'
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    assert config(model).input[0].name == name


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (identity(["N", 2], dtype=TensorProto.COMPLEX64), "'x0' has element type COMPLEX64, which Triton does not have"),
        (identity(["N", 2], dtype=TensorProto.FLOAT8E4M3FN, opset=19), "'x0' has element type FLOAT8E4M3FN"),
    ],
    ids=["complex", "float8"],
)
def test_types_that_triton_lacks(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(gn_onnx.GnOnnxError, match=message):
        config(model)


def test_an_input_without_a_shape() -> None:
    model = identity(["N", 2])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(gn_onnx.GnOnnxError, match="the shape of 'x0' is not known"):
        config(model)


def test_external_data_comes_along(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "big.onnx"
    onnx.save(fused_detector(detector()), path, save_as_external_data=True, location="big.weights", size_threshold=0)
    assert cli.main(["triton", str(path), "-o", str(tmp_path / "models"), "--json"]) == 0
    folder = tmp_path / "models" / "big" / "1"
    assert sorted(file.name for file in folder.iterdir()) == ["big.weights", "model.onnx"]
    assert (folder / "big.weights").read_bytes() == (tmp_path / "in" / "big.weights").read_bytes()
    onnx.checker.check_model(str(folder / "model.onnx"))


def test_refusals_leave_nothing(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, repository = write(tmp_path / "m.onnx", without_group_norm()), tmp_path / "models"
    bad = write(tmp_path / "bad.onnx", identity(["N", 2], dtype=TensorProto.COMPLEX64))
    (tmp_path / "empty.onnx").touch()
    for arguments, message in (
        ([str(bad)], "COMPLEX64"),
        ([str(tmp_path / "empty.onnx")], "empty"),
        ([str(model), "--name", "../x"], "is no name for a model"),
        ([str(model), "--instances", "0"], "at least 1"),
    ):
        assert cli.main(["triton", *arguments, "-o", str(repository)]) == 2
        assert message in capsys.readouterr().err
        assert not repository.exists()
    assert cli.main(["triton", str(model), "-o", str(repository)]) == 0
    before = sorted(repository.rglob("*"))
    assert cli.main(["triton", str(model), "-o", str(repository)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert sorted(repository.rglob("*")) == before


def test_a_full_disk_leaves_nothing(tmp_path: pathlib.Path) -> None:
    model = write(tmp_path / "m.onnx", without_group_norm())
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        " resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        " from gn_onnx import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "triton", str(model), "-o", str(tmp_path / "new" / "models")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 2
    assert "nothing was changed" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_by_the_published_schema(tmp_path: pathlib.Path) -> None:
    """NVIDIA's own: model_config_pb2 of its Python client, loaded by itself."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), CLIENT]
    subprocess.run(pip, check=True)
    spec = importlib.util.spec_from_file_location("model_config_pb2", tmp_path / "tritonclient/grpc/model_config_pb2.py")
    assert spec is not None and spec.loader is not None
    published = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(published)
    for name, fields in triton_schema.FIELDS.items():
        ours = triton_schema.model_config().DESCRIPTOR.file.message_types_by_name[name]
        theirs = getattr(published, name).DESCRIPTOR
        for field in fields:
            a, b = ours.fields_by_name[field], theirs.fields_by_name[field]
            assert (a.number, a.type, a.is_repeated) == (b.number, b.type, b.is_repeated), f"{name}.{field}"
    assert published.DataType.keys() == triton_schema.ENUMS["DataType"]
    for model in (fused_detector(detector()), identity([], ["N"]), identity(["N"]), without_group_norm()):
        settings = triton_config.Settings(name="m", library="/models/m/libgn_onnx_ops.so")
        parsed = text_format.Parse(triton_config.make(model, settings).text, published.ModelConfig())
        assert parsed.model_operations.op_library_filename == ["/models/m/libgn_onnx_ops.so"]


def test_json(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write(tmp_path / "m.onnx", without_group_norm())
    assert cli.main(["triton", str(model), "-o", str(tmp_path / "models"), "--json", "--kind", "cpu"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["written"] == str(tmp_path / "models" / "m")
    assert data["library"] == str(tmp_path / "models" / "m" / "libgn_onnx_ops.so")
