"""The command line: exit status, what is written where, and that nothing is harmed when something goes wrong."""

from __future__ import annotations

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from forms_reader import FORMS
from hand_models import detector, fused_detector, without_group_norm
from helpers import evaluator

import gn_onnx
from gn_onnx import cli
from gn_onnx.errors import GnOnnxError
from gn_onnx.files import fuse_file, model_io

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "detector.onnx"
    path.write_bytes(detector().SerializeToString())
    return path


def files(folder: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def operators(path: pathlib.Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_fuse_writes_beside_the_model(model: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = model.read_bytes()
    assert cli.main(["fuse", str(model)]) == 0
    output = model.with_name("detector.gn.onnx")
    assert operators(output).count("InstanceNormalization") == 0
    assert model.read_bytes() == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "fused          2  GroupNormalization (num_groups=2), 1 with relu" in captured.err
    assert f"wrote {output}" in captured.err


def test_the_output_is_the_same_every_time(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        assert cli.main(["fuse", str(model), "-o", str(tmp_path / name), "--no-verify"]) == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_in_place_and_again(model: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fuse", str(model), "--in-place"]) == 0
    once = model.read_bytes()
    assert cli.main(["fuse", str(model), "--in-place"]) == 0
    assert model.read_bytes() == once
    assert "nothing to do: 2 fused already" in capsys.readouterr().err
    assert files(model.parent) == ["detector.onnx"]


def test_the_input_is_not_overwritten_by_another_name_for_it(model: pathlib.Path) -> None:
    before = model.read_bytes()
    link = model.with_name("link.onnx")
    link.symlink_to(model)
    for output in (model, link, model.parent / "." / model.name):
        assert cli.main(["fuse", str(model), "-o", str(output)]) == 2
    assert model.read_bytes() == before


def test_inputs_with_a_default_become_constants_when_asked(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = next(form for form in FORMS if form.name == "attack_default_epsilon").model
    path, output = tmp_path / "mxnet.onnx", tmp_path / "out.onnx"
    path.write_bytes(original.SerializeToString())
    assert cli.main(["fuse", str(path), "--check"]) == 0
    assert cli.main(["explain", str(path)]) == 0
    assert "fuse --freeze-defaults makes it one" in capsys.readouterr().err
    assert cli.main(["fuse", str(path), "-o", str(output), "--freeze-defaults"]) == 0
    assert "1 of 1 checked in float64" in capsys.readouterr().err
    fused = onnx.load(output)
    assert [value.name for value in fused.graph.input] == ["x"]
    assert operators(output) == ["GroupNormalization"]
    assert gn_onnx.fuse(ir.from_proto(original), target="onnx", freeze_defaults=True).fused
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 8, 3, 4)).astype(np.float32)}
    (want,), (got,) = (evaluator(model).run(feeds).values() for model in (original, fused))
    assert np.allclose(want, got, rtol=0, atol=1e-6)


def test_inputs_with_a_default_stay_where_nothing_is_fused() -> None:
    model = without_group_norm()
    model.graph.input.extend([onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [1])])
    model.graph.initializer.extend([onnx.numpy_helper.from_array(np.ones(1, np.float32), "w")])
    result = gn_onnx.fuse(ir.from_proto(model), freeze_defaults=True)
    assert [value.name for value in result.model.graph.inputs] == [value.name for value in model.graph.input]


def test_check_writes_nothing(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert cli.main(["fuse", "--check", str(model)]) == 1
    assert files(tmp_path) == ["detector.onnx"]
    assert cli.main(["fuse", "--in-place", str(model)]) == 0
    assert cli.main(["fuse", "--check", str(model)]) == 0


def test_nothing_to_fuse_copies_to_an_explicit_output(tmp_path: pathlib.Path) -> None:
    path, output = tmp_path / "relu.onnx", tmp_path / "out.onnx"
    path.write_bytes(without_group_norm().SerializeToString())
    assert cli.main(["fuse", str(path), "-o", str(output)]) == 0
    assert output.read_bytes() == path.read_bytes()


def test_json_goes_to_stdout(model: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fuse", str(model), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["fused"]) == 2
    assert report["verification"]["ok"] is True
    assert report["output"].endswith("detector.gn.onnx")


def test_a_wrong_fusion_is_refused(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = gn_onnx.fuse(model_io.load_model(model))
    wrong = model_io.to_ir(fused_detector(detector(), epsilon=2e-5))

    class Wrong:
        fused, rejected = right.fused, right.rejected

        def __init__(self, *_: object, **__: object) -> None: ...

        def __call__(self, model: ir.Model) -> ir.passes.PassResult:
            return ir.passes.PassResult(wrong, modified=True)

    monkeypatch.setattr(gn_onnx, "FuseGroupNorm", Wrong)
    assert cli.main(["fuse", str(model)]) == 1
    assert "not equal to the original" in capsys.readouterr().err
    assert files(model.parent) == ["detector.onnx"]
    assert cli.main(["fuse", str(model), "--no-verify"]) == 0
    assert files(model.parent) == ["detector.gn.onnx", "detector.onnx"]


def test_explain(model: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", str(model)]) == 0
    assert "2 GroupNorm found" in capsys.readouterr().err
    assert cli.main(["explain", str(model), "--json"]) == 0
    assert [site["num_groups"] for site in json.loads(capsys.readouterr().out)["found"]] == [2, 2]


def test_unfuse(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    fused, back = tmp_path / "fused.onnx", tmp_path / "back.onnx"
    assert cli.main(["fuse", str(model), "-o", str(fused)]) == 0
    assert cli.main(["unfuse", str(fused), "-o", str(back)]) == 0
    assert all(node.domain in ("", "ai.onnx") for node in onnx.load(back).graph.node)
    assert cli.main(["parity", str(back), "--against", str(model)]) == 0
    assert cli.main(["unfuse", str(fused), "-o", str(fused)]) == 2


def test_parity(model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    fused = tmp_path / "fused.onnx"
    assert cli.main(["fuse", str(model), "-o", str(fused)]) == 0
    assert cli.main(["parity", str(fused), "--against", str(model), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {output["name"] for output in report["outputs"]} == {"features"}
    assert len(report["sites"]) == 6  # two sites, three kinds of data
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(fused_detector(detector(), scale=1.5).SerializeToString())
    assert cli.main(["parity", str(wrong), "--against", str(model)]) == 1


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["gn_onnx"] == facts["version"] == gn_onnx.__version__


@pytest.mark.parametrize("cuda", [False, True])
def test_info_says_when_cuda_kernels_are_missing(
    cuda: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gn_onnx, "build_info", lambda: {"cuda": cuda})
    assert cli.main(["info"]) == 0
    assert ("was built without CUDA kernels" in capsys.readouterr().err) == (not cuda)


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["nonsense"], ["fuse"], ["fuse", "gone.onnx"], ["explain", "gone.onnx"], ["fuse", "."],
        ["fuse", "gone.onnx", "--target", "tpu"], ["fuse", "x", "-o", "y", "--in-place"], ["bench"],
        ["fuse", "x", "--shape", "image"], ["parity", "gone.onnx", "--against", "gone.onnx"],
        ["parity", "gone.onnx", "--torch", "nowhere"], ["unfuse", "gone.onnx"], ["bench", "gone.onnx"],
        ["report", "gone.onnx", "-o", "page.html"],
    ],
)  # fmt: skip
def test_usage_errors_are_one_line_and_status_2(
    arguments: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert "error:" in capsys.readouterr().err
    assert files(tmp_path) == []


def test_shapes_for_the_check(model: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fuse", str(model), "--shape", "image=1,3,20,24"]) == 0
    assert cli.main(["fuse", str(model), "--shape", "image=1,4,20,24"]) == 2
    assert "has shape" in capsys.readouterr().err
    assert cli.main(["fuse", str(model), "--shape", "other=1,4"]) == 2
    assert "no graph input 'other'" in capsys.readouterr().err


def test_names_from_a_model_do_not_reach_the_terminal_raw(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = detector()
    hostile.graph.node[0].input[0] = "\x1b[2J\x07gone"
    (tmp_path / "m.onnx").write_bytes(hostile.SerializeToString())
    assert cli.main(["fuse", str(tmp_path / "m.onnx")]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_colour_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from gn_onnx.console import Console

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Console().colour
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Console().colour


def test_external_data_goes_along_and_stays_untouched_in_place(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    model = tmp_path / "in" / "model.onnx"
    onnx.save(detector(), model, save_as_external_data=True, location="model.data", size_threshold=100)
    data = (tmp_path / "in/model.data").stat()
    output = tmp_path / "out" / "fused.onnx"
    assert cli.main(["fuse", str(model), "-o", str(output)]) == 0
    assert files(tmp_path / "out") == ["fused.onnx", "model.data"]
    assert gn_onnx.check_parity(model, output).ok
    assert cli.main(["fuse", str(model), "--in-place"]) == 0
    assert (tmp_path / "in/model.data").stat().st_mtime_ns == data.st_mtime_ns


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gn_onnx", *arguments]
    env = os.environ | environment
    return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_half_written(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def stop(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(os, "fsync", stop)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        assert cli.main(["fuse", str(model), "--no-verify"]) == status
    finally:
        signal.signal(signal.SIGINT, before)
    assert files(model.parent) == ["detector.onnx"]


def test_a_killed_process_leaves_nothing_half_written(model: pathlib.Path) -> None:
    script = (
        "import os, signal, sys; from gn_onnx import cli\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "cli.main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", script, "fuse", str(model), "--no-verify"], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert files(model.parent) == ["detector.onnx"]


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime  # not the time on the wall: tests share the machine

    begin = seconds()
    process = start(["--help"])
    process.communicate()
    assert process.returncode == 0
    assert seconds() - begin < 0.3


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from gn_onnx import cli; cli.main(['--help']); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"numpy", "onnx", "onnx_ir", "onnxruntime", "torch", "rich", "matplotlib"}
    assert not heavy & set(done.stdout.split())


def test_the_public_name_fuse_is_the_function_however_it_is_imported() -> None:
    code = "import gn_onnx.fuse, gn_onnx.unfuse, gn_onnx; assert callable(gn_onnx.fuse) and callable(gn_onnx.unfuse)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert sorted(gn_onnx.__all__) == list(gn_onnx.__all__) or set(gn_onnx.__all__) == set(gn_onnx._HOME)
    for name in gn_onnx.__all__:
        assert getattr(gn_onnx, name) is not None


def test_a_closed_pipe_is_no_error(model: pathlib.Path) -> None:
    process = start(["explain", str(model), "--json"])
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 0


def test_a_missing_onnx_runtime_leaves_the_check_by_sites(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gn_onnx.checking import ort_runner

    monkeypatch.setattr(ort_runner, "is_installed", lambda: False)
    report = fuse_file.fuse_file(fuse_file.Request(model=model, output=model.with_name("out.onnx")))
    assert report.verification is not None
    assert [site.status for site in report.verification.sites] == ["equal", "equal"]
    with pytest.raises(GnOnnxError, match="not installed"):
        gn_onnx.check_parity(model, model)


def test_the_fused_detector_computes_the_same(model: pathlib.Path) -> None:
    assert cli.main(["fuse", str(model)]) == 0
    report = gn_onnx.check_parity(model, model.with_name("detector.gn.onnx"))
    assert report.ok, str(report)
    assert not np.isnan(report.worst.relative)
