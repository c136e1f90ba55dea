"""Disks that are full, read-only or broken, and processes that are killed: nothing is lost, nothing half written."""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest
from hand_models import detector

import gn_onnx
from gn_onnx import cli
from gn_onnx.files import model_io

ROOT = pathlib.Path(__file__).parent.parent
WHOLE = detector().SerializeToString()
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


def test_a_read_only_folder(tmp_path: pathlib.Path) -> None:
    """For root too: its right to pass over permissions is dropped for the command."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "model.onnx"
    path.write_bytes(WHOLE)
    folder.chmod(0o555)

    def without_override() -> None:
        if os.geteuid() == 0 and ctypes.CDLL(None).prctl(24, 1, 0, 0, 0):  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
            raise OSError("CAP_DAC_OVERRIDE cannot be dropped")

    for options in (["fuse", "--in-place", "--no-verify"], ["fuse", "--no-verify"], ["triton", "-o", str(folder)]):
        command = [sys.executable, "-m", "gn_onnx", options[0], str(path), *options[1:]]
        done = subprocess.run(command, cwd=ROOT, preexec_fn=without_override, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("gn-onnx: error: ")
        assert done.stderr.endswith("cannot write: Permission denied; nothing was changed\n")
        assert path.read_bytes() == WHOLE
        assert [file.name for file in folder.iterdir()] == ["model.onnx"]


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


@pytest.mark.parametrize(
    ("redirection", "status", "words"),
    [
        (">/dev/full", 2, "standard output: cannot write: No space left on device"),
        (">&-", 0, ""),
        ("<&- >/dev/null", 0, ""),
        ("2>/dev/full >/dev/null", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
    ],
)
def test_streams_that_are_full_or_closed(redirection: str, status: int, words: str, tmp_path: pathlib.Path) -> None:
    """A file that is opened where standard error is closed would get what is logged there."""
    (tmp_path / "model.onnx").write_bytes(WHOLE)
    command = f'"$0" -m gn_onnx fuse "$1" --no-verify --json -v -o "$2" {redirection}'
    output = tmp_path / "out.onnx"
    arguments = ["sh", "-c", command, sys.executable, str(tmp_path / "model.onnx"), str(output)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr
    assert len(gn_onnx.fuse(str(output)).rejected) == 0
    assert [node.domain for node in model_io.load_proto(output).graph.node].count("gn_onnx") == 2
