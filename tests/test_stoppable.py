"""Models with a loop that does not end: a run of them can be interrupted, and ends by itself after a while."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hand_models import detector
from onnx import TensorProto, helper, numpy_helper

from gn_onnx import cli
from gn_onnx.checking import ort_runner, stoppable
from gn_onnx.errors import GnOnnxError

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort

ROOT = pathlib.Path(__file__).parent.parent


def endless() -> onnx.ModelProto:
    """The detector, and to its features is added what a loop of 2^62 rounds computes."""
    model = detector()
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["value", "value"], ["next"])]
    inputs = [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("value", TensorProto.FLOAT, [1])]
    outputs = [info("on", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, [1])]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    model.graph.initializer.extend([
        numpy_helper.from_array(np.array(1 << 62, np.int64), "rounds"),
        numpy_helper.from_array(np.array(True), "always"),
        numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
    ])  # fmt: skip
    model.graph.node.append(helper.make_node("Loop", ["rounds", "always", "zero"], ["looped"], "the_loop", body=body))
    model.graph.node.append(helper.make_node("Add", ["features", "looped"], ["both"]))
    model.graph.output[0].name = "both"
    return model


def test_a_run_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stoppable, "LONGEST_RUN", 0.5)
    session = ort_runner.Session(endless())
    image = {"image": np.zeros((1, 3, 8, 8), np.float32)}
    with pytest.raises(GnOnnxError, match="not finished a run of the model after 0.5 seconds"):
        session.run(image)
    assert ort_runner.Session(detector()).run(image)["features"].shape == (1, 8, 8, 8)


def test_fusing_goes_on_with_the_sites(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stoppable, "LONGEST_RUN", 0.5)
    model, output = tmp_path / "endless.onnx", tmp_path / "out.onnx"
    model.write_bytes(endless().SerializeToString())
    assert cli.main(["fuse", str(model), "-o", str(output)]) == 0
    said = capsys.readouterr().err
    assert "2 of 2 checked in float64" in said
    assert "outputs not compared" in said
    assert "not finished a run" in said


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_are_heard_while_onnxruntime_runs(number: int, status: int, tmp_path: pathlib.Path) -> None:
    model = tmp_path / "endless.onnx"
    model.write_bytes(endless().SerializeToString())
    script = (
        "import sys; from gn_onnx import cli; from gn_onnx.checking import stoppable\n"
        "real = stoppable.call\n"
        "stoppable.call = lambda run: real(lambda how: (print('running', flush=True), run(how))[1])\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "fuse", str(model), "-o", str(tmp_path / "out.onnx")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert said in ("gn-onnx: error: interrupted\n", "gn-onnx: error: terminated\n")
    assert [file.name for file in tmp_path.iterdir()] == ["endless.onnx"]
