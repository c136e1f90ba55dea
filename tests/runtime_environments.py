"""ONNX Runtime's CPU wheels, each minor version in an environment of its own: an interpreter and two packages.

The environments stay under `out/runtimes` from run to run. Only wheels that their Python can use are considered: this
one, or another that is on the machine.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "out" / "runtimes"
OLDEST = (1, 17)
"""The first version that has the API version our library asks for."""

Version = tuple[int, ...]
THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""What the wheel is for."""


def text(version: Version) -> str:
    return ".".join(map(str, version))


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        raise OSError(f"pip {' '.join(arguments)}: {done.stderr.strip()[-500:]}")
    return done.stdout


@functools.cache
def newest_of_each_minor(python: str = THIS) -> tuple[Version, ...]:
    """The newest release of every minor version that has a wheel for a Python ("3.11"), oldest first.

    Raises:
        OSError: No package registry can be reached.
    """
    answer = _pip("index", "versions", "onnxruntime", "--only-binary", ":all:", "--python-version", python)
    listed = re.search(r"Available versions: (.*)", answer)
    found: dict[Version, Version] = {}
    for word in listed.group(1).split(", ") if listed else []:
        if re.fullmatch(r"\d+\.\d+\.\d+", word):
            version = tuple(map(int, word.split(".")))
            found[version[:2]] = max(version, found.get(version[:2], version))
    return tuple(found[minor] for minor in sorted(found))


def supported(python: str = THIS) -> tuple[Version, ...]:
    return tuple(version for version in newest_of_each_minor(python) if version[:2] >= OLDEST)


def too_old() -> tuple[Version, ...]:
    """The newest version that is older than what our library asks for; none where this Python has no wheel of it."""
    return tuple(version for version in newest_of_each_minor() if version[:2] < OLDEST)[-1:]


def command_of(python: str) -> str | None:
    """The command of a Python ("3.11") that runs on this machine."""
    if python == THIS:
        return sys.executable
    # A shim of pyenv is there for every version and runs only the chosen ones; the others stand in its folder.
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{python}"), *map(str, sorted(pyenv.glob(f"{python}.*/bin/python")))]
    for command in filter(None, candidates):
        if subprocess.run([command, "-c", "import venv"], capture_output=True, timeout=60, check=False).returncode == 0:
            return command
    return None


def interpreter(version: Version, of: str = THIS) -> pathlib.Path:
    """The interpreter of the version's environment, which is made when it is not there.

    Raises:
        OSError: The environment cannot be made.
    """
    base = command_of(of)
    if base is None:
        raise OSError(f"no python{of}")
    folder = FOLDER / f"python{of}" / text(version)
    python, complete = folder / "bin" / "python", folder / "complete.json"
    if complete.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = [f"onnxruntime=={text(version)}", "numpy<2" if version < (1, 19) else "numpy"]
    # Without what only its tools import (sympy, protobuf): a session needs numpy alone.
    _pip("--python", str(python), "install", "--quiet", "--no-deps", "--no-compile", "--only-binary", ":all:", *packages)
    complete.write_text(json.dumps(packages))
    return python
