"""Runs models in whichever ONNX Runtime is installed, and says what it saw: one line of JSON for each case.

`python runtime_probe.py FOLDER LIBRARY`: FOLDER has `cases.json`, the models, and their inputs and expected outputs.
It runs in environments that have onnxruntime and numpy only, and imports nothing else. What a line means is
judged by test_runtime_versions.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import tempfile
import threading
from collections.abc import Iterator

import numpy as np
import onnxruntime as ort


@contextlib.contextmanager
def native_stderr() -> Iterator[list[str]]:
    """What is written to file descriptor 2 meanwhile, by C++ too."""
    said: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))


def session(path: pathlib.Path, library: str | None, profile: str | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = 2
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    if library:
        options.register_custom_ops_library(library)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def group_norms(profile: str) -> list[str]:
    """Providers that ran GroupNormalization nodes as one node each, one entry per node that ran."""
    events = json.loads(pathlib.Path(profile).read_text())
    ran = [event["args"] for event in events if event.get("cat") == "Node" and event["name"].endswith("kernel_time")]
    return [args["provider"] for args in ran if args["op_name"].startswith("GroupNormalization")]


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """Largest |got - want| relative to the largest |want|; inf where shapes differ or something is not finite."""
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.max(np.abs(got.astype(np.float64) - want)) / np.max(np.abs(want)))


def arrays_of(folder: pathlib.Path, case: dict) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs by name, and the expected output; empty where the model has to be refused."""
    arrays = dict(np.load(folder / case["arrays"]))
    return {name[3:]: array for name, array in arrays.items() if name.startswith("in.")}, arrays["out"]


def attempt(folder: pathlib.Path, case: dict, library: str | None) -> dict:
    """One model, run once: `refused` with the runtime's message, or how far it is from what is expected."""
    feeds, want = arrays_of(folder, case)
    try:
        with native_stderr() as said:
            of = session(folder / case["model"], library, str(folder / "profile"))
            (got,) = of.run(None, feeds)
            ran = group_norms(of.end_profiling())
    except Exception as error:  # its types differ from version to version
        return {"refused": str(error).strip()}
    return {"difference": difference(got, want), "kernels": ran, "stderr": said[0]}


def two_sessions(folder: pathlib.Path, case: dict, library: str) -> dict:
    """Two sessions of one library, each called by two threads at once: how many calls gave other bits than a single one."""
    feeds, _ = arrays_of(folder, case)
    sessions = [session(folder / case["model"], library) for _ in range(2)]
    (want,) = sessions[0].run(None, feeds)
    right: list[bool] = []

    def call(of: ort.InferenceSession) -> None:
        right.extend(np.array_equal(of.run(None, feeds)[0], want) for _ in range(10))

    threads = [threading.Thread(target=call, args=(of,)) for of in sessions * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"calls": len(right), "right": sum(right)}


def main() -> None:
    folder, library = pathlib.Path(sys.argv[1]), sys.argv[2]

    def say(name: str, how: str, seen: dict) -> None:
        print(json.dumps({"case": name, "how": how, **seen}), flush=True)

    for case in json.loads((folder / "cases.json").read_text()):
        if "two sessions" in case["also"]:
            say(case["name"], "two sessions", two_sessions(folder, case, library))
        if "without" in case["also"]:
            say(case["name"], "without", attempt(folder, case, None))
        say(case["name"], "with", attempt(folder, case, library))


if __name__ == "__main__":
    main()
