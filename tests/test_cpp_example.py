"""custom_ops/examples/run_model.cc: the library from C++, in the libonnxruntime.so of the installed wheel."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hand_models import detector

import gn_onnx

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort

CUSTOM_OPS = pathlib.Path(__file__).parents[1] / "custom_ops"
PATH = os.pathsep.join((str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")))
SHAPE = (1, 3, 20, 24)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Built as the library's tests are: warnings are errors."""
    folder = tmp_path_factory.mktemp("example")
    options = ["-DGN_ONNX_CUDA=OFF", "-DGN_ONNX_TESTS=ON", "-DCMAKE_BUILD_TYPE=Debug"]
    for command in (
        ["cmake", "-S", str(CUSTOM_OPS), "-B", str(folder), *options],
        ["cmake", "--build", str(folder), "--target", "run_model"],
    ):
        done = subprocess.run(command, env=os.environ | {"PATH": PATH}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "run_model"


@pytest.fixture(scope="module")
def runtime() -> pathlib.Path:
    (library,) = pathlib.Path(ort.__file__).parent.joinpath("capi").glob("libonnxruntime.so.*")
    return library


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    """The fused detector without its function bodies, so that nothing but the kernels can run it."""
    fused = gn_onnx.fuse(detector()).model
    del fused.functions[:]
    path = tmp_path / "detector.onnx"
    path.write_bytes(fused.SerializeToString())
    return path


def run(program: pathlib.Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_fused_detector_gives_what_it_gives_in_python(
    program: pathlib.Path, runtime: pathlib.Path, model: pathlib.Path
) -> None:
    done = run(program, runtime, gn_onnx.library_path(), model, *SHAPE)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    image = ((np.arange(np.prod(SHAPE)) % 17) * 0.125 - 1).astype(np.float32).reshape(SHAPE)
    (features,) = gn_onnx.session(model, ["CPUExecutionProvider"]).run(None, {"image": image})
    head, _, rest = done.stdout.partition(" sum ")
    total, _, first = rest.partition(" first ")
    assert head == "features [ 1 8 20 24 ]"
    assert float(total) == pytest.approx(float(features.astype(np.float64).sum()), abs=1e-3)
    assert np.array_equal(np.array(first.split(), np.float32), features.ravel()[:8])


def test_what_goes_wrong_is_said_and_no_crash(
    program: pathlib.Path, runtime: pathlib.Path, model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    library = gn_onnx.library_path()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(model.read_bytes()[:100])
    wrong = onnx.load(model)
    next(a for a in wrong.graph.node[1].attribute if a.name == "num_groups").i = 3
    (tmp_path / "wrong.onnx").write_bytes(wrong.SerializeToString())
    for arguments, status, words in (
        ([runtime, library, model], 2, "usage"),
        ([runtime, library, model, "1", "x"], 2, "'x' is no size"),
        ([tmp_path / "no.so", library, model, *SHAPE], 1, "no.so"),
        ([library, library, model, *SHAPE], 1, "OrtGetApiBase"),
        ([runtime, tmp_path / "no.so", model, *SHAPE], 1, "no.so"),
        ([runtime, library, broken, *SHAPE], 1, "broken.onnx"),
        ([runtime, library, model, 1, 4, 20, 24], 1, "Got: 4 Expected: 3"),
        ([runtime, library, tmp_path / "wrong.onnx", *SHAPE], 1, "8 channels, which num_groups 3 does not divide"),
    ):
        done = run(program, *arguments)
        assert done.returncode == status, (arguments, done.stderr)
        assert words in done.stderr
        assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.torch
def test_a_whole_detector(program: pathlib.Path, runtime: pathlib.Path, tmp_path: pathlib.Path) -> None:
    from models import registry
    from models.exporting import Form

    original, fused = tmp_path / "fcos.onnx", tmp_path / "fcos.gn.onnx"
    registry.build("fcos").export(original, Form("torchscript", 17))
    fused.write_bytes(gn_onnx.fuse(onnx.load(original)).model.SerializeToString())
    shape = registry.build("fcos").inputs[0].shape
    done = run(program, runtime, gn_onnx.library_path(), fused, *shape)
    assert done.returncode == 0, done.stderr
    image = ((np.arange(np.prod(shape)) % 17) * 0.125 - 1).astype(np.float32).reshape(shape)
    session = gn_onnx.session(fused, ["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: image})
    lines = done.stdout.splitlines()
    assert len(lines) == len(outputs)
    for line, output in zip(lines, outputs, strict=True):
        first = np.array(line.partition(" first ")[2].split(), np.float32)
        assert np.allclose(first, output.ravel()[:8], rtol=1e-4, atol=1e-5)
