"""Fused models in what people do with ONNX Runtime's sessions: many, at once, saved, bound, profiled."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import onnx
import pytest
from hand_models import detector

import gn_onnx

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort

CPU = ["CPUExecutionProvider"]
IMAGE = {"image": np.random.default_rng(0).normal(size=(2, 3, 20, 24)).astype(np.float32)}
FUSED = gn_onnx.fuse(detector()).model


def session(model: bytes | str, *, library: bool = True, config: dict[str, str] | None = None, **options: Any) -> Any:
    chosen = ort.SessionOptions()
    chosen.log_severity_level = 4
    chosen.intra_op_num_threads = 2
    for name, value in options.items():
        setattr(chosen, name, value)
    for name, value in (config or {}).items():
        chosen.add_session_config_entry(name, value)
    if library:
        gn_onnx.register(chosen)
    return ort.InferenceSession(model, chosen, providers=CPU)


@pytest.fixture(scope="module")
def want() -> np.ndarray:
    (features,) = session(FUSED.SerializeToString()).run(None, IMAGE)
    return features


def close(of: Any, want: np.ndarray, tolerance: float = 1e-5) -> bool:
    (got,) = of.run(None, IMAGE)
    return bool(np.max(np.abs(got - want)) <= tolerance * np.max(np.abs(want)))


def test_many_threads_call_many_sessions_at_once(want: np.ndarray) -> None:
    """Eight threads on each of 24 sessions that live together; every call gives the bits of a single one."""
    sessions = [session(FUSED.SerializeToString()) for _ in range(24)]
    right: list[bool] = []

    def call(start: int) -> None:
        for step in range(len(sessions)):
            (got,) = sessions[(start + step) % len(sessions)].run(None, IMAGE)
            right.append(got.tobytes() == want.tobytes())

    threads = [threading.Thread(target=call, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(right) == 8 * 24
    assert all(right)


def growth(count: int) -> float:
    """Kilobytes per session of a loop in a process of its own."""
    command = [sys.executable, str(pathlib.Path(__file__).with_name("session_loop.py")), str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_sessions_that_come_and_go_leave_nothing_behind() -> None:
    """A library that is unloaded with each session and makes its operators anew costs 16 kB every time."""
    assert growth(300) < 3


@pytest.mark.slow
def test_ten_thousand_sessions_leave_nothing_behind() -> None:
    assert growth(10_000) < 0.5


def test_input_and_output_may_be_bound_and_the_sizes_change(want: np.ndarray) -> None:
    of = session(FUSED.SerializeToString())
    y = ort.OrtValue.ortvalue_from_numpy(np.full_like(want, np.nan))
    binding = of.io_binding()
    binding.bind_ortvalue_input("image", ort.OrtValue.ortvalue_from_numpy(IMAGE["image"]))
    binding.bind_ortvalue_output("features", y)
    for _ in range(2):
        of.run_with_iobinding(binding)
        assert y.numpy().tobytes() == want.tobytes()
    smaller = of.io_binding()
    smaller.bind_cpu_input("image", IMAGE["image"][:1, :, :8, :9].copy())
    smaller.bind_output("features")
    of.run_with_iobinding(smaller)
    assert smaller.copy_outputs_to_cpu()[0].shape == (1, 8, 8, 9)


def test_profiling_shows_our_nodes_and_their_provider(tmp_path: pathlib.Path) -> None:
    of = session(FUSED.SerializeToString(), enable_profiling=True, profile_file_prefix=str(tmp_path / "profile"))
    of.run(None, IMAGE)
    events = json.loads(pathlib.Path(of.end_profiling()).read_text())
    ours = {
        event["args"]["op_name"]: event["args"]["provider"]
        for event in events
        if event.get("cat") == "Node" and event["args"].get("op_name", "").startswith("GroupNormalization")
    }
    assert ours == {"GroupNormalization": CPU[0], "GroupNormalizationRelu": CPU[0]}


LEVELS = ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("suffix", [".onnx", ".ort"])
def test_a_model_that_the_runtime_saves_runs_again(
    suffix: str, level: str, tmp_path: pathlib.Path, want: np.ndarray
) -> None:
    """ONNX Runtime leaves out function bodies: what it saves with the library needs the library, and only that does."""
    chosen = {"graph_optimization_level": getattr(ort.GraphOptimizationLevel, level)}
    saving = {"session.save_model_format": "ORT"} if suffix == ".ort" else {}
    for library in (True, False):
        path = str(tmp_path / f"saved{library}{suffix}")
        session(FUSED.SerializeToString(), library=library, config=saving, optimized_model_filepath=path, **chosen)
        assert close(session(path), want)
        if library:
            if suffix == ".onnx":
                kept = [node.op_type for node in onnx.load(path).graph.node if node.domain == "gn_onnx"]
                assert kept == ["GroupNormalizationRelu", "GroupNormalization"]
            with pytest.raises(Exception, match="GroupNormalizationRelu.* is not a registered"):
                session(path, library=False)
        else:
            assert close(session(path, library=False), want)


def test_the_tool_that_converts_to_ort_format(tmp_path: pathlib.Path, want: np.ndarray) -> None:
    (tmp_path / "model.onnx").write_bytes(FUSED.SerializeToString())
    command = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(tmp_path / "model.onnx")]
    command += ["--custom_op_library", str(gn_onnx.library_path())]
    done = subprocess.run([*command, "--optimization_style", "Fixed"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert close(session(str(tmp_path / "model.ort")), want)


def test_a_native_model_keeps_its_node_in_ort_format(tmp_path: pathlib.Path, want: np.ndarray) -> None:
    """GroupNormalization of opset 21 saved with the library is one node for the kernel again."""
    native = gn_onnx.fuse(detector(), target="onnx").model
    path = str(tmp_path / "model.ort")
    session(native.SerializeToString(), config={"session.save_model_format": "ORT"}, optimized_model_filepath=path)
    of = session(path, enable_profiling=True, profile_file_prefix=str(tmp_path / "profile"))
    assert close(of, want)
    profile = pathlib.Path(of.end_profiling()).read_text()
    assert '"op_name" : "GroupNormalization"' in profile


def test_a_provider_without_its_device_falls_back(want: np.ndarray) -> None:
    providers = [name for name in ort.get_available_providers() if name == "CUDAExecutionProvider"] + CPU
    options = ort.SessionOptions()
    options.log_severity_level = 4
    gn_onnx.register(options)
    of = ort.InferenceSession(FUSED.SerializeToString(), options, providers=providers)
    assert close(of, want, 1e-3)  # on a GPU convolutions may use tensor cores
