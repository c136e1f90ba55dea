"""The library as it is built here, in every version of ONNX Runtime that it is for, each in its own environment.

Three versions are part of every run; `make test-versions` tries all and writes the README's table.

What the header files do not say, and what holds us to it:

- Shape inference of a node that leaves out an optional input ends processes before 1.24. Our operators have none: cases
  "an empty name for the bias" and "no bias".
- GetScratchBuffer on the CPU ends processes before 1.23. Memory is the allocator's: the cases "large", which need it.
- An operator newer than its runtime is refused: every session here, and `versions_are_not_exceeded` in ort_layer_test.cc.
- GetApi of a version that is too new gives null and complains on stderr: what every case said there, and
  `an_older_runtime_gets_nothing` in ort_layer_test.cc.
- A missing attribute is an error to be released, and sizes of strings count the zero: cases "no epsilon" and "no
  num_groups", the node's name in every message; ort_layer_fuzz.cc counts what is not given back.
- GetResource is an error on the CPU: custom_ops/src/ort/abi.h does not have it.
- Newer versions have more element types and error codes: bfloat16 has the highest number that we use, in every version.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from typing import Any

import pytest
import runtime_cases
import runtime_environments as environments
import versions_table

import gn_onnx

pytestmark = [pytest.mark.ort, pytest.mark.versions]

PROBE = pathlib.Path(__file__).parent / "runtime_probe.py"

TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2}
"""Relative to the largest value: 4 u for a function body in the half types; 2e-6 where a type is not listed."""

REFUSED = {
    "no num_groups": ["'the_norm'", "the attribute num_groups (int) is missing"],
    "scale of another size": ["'the_norm'", "scale has shape [5]; expected [32]"],
    "channels that groups do not divide": ["'the_norm'", "7 channels, which num_groups 8 does not divide"],
    "an empty name for the bias": ["the_norm", "invalid model"],
    "no bias": ["the_norm", "invalid model"],
}
"""Models that every version has to refuse, and words that the message must have. Where an operator has optional
inputs, versions before 1.24 end the process over the empty name: ours have none."""

OPSET_21 = (1, 18)
"""The first version that knows opset 21."""

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("cases")
    runtime_cases.write(folder)
    return folder


@pytest.fixture(scope="module")
def versions() -> tuple[environments.Version, ...]:
    try:
        return environments.supported()
    except OSError as error:
        pytest.skip(f"no package registry: {error}")


def probe(version: environments.Version, cases: pathlib.Path, python: str = environments.THIS) -> Lines:
    """What the version's environment says about each case; it may not end before the last."""
    command = [str(environments.interpreter(version, python)), str(PROBE), str(cases), str(gn_onnx.library_path())]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    last = lines[-1]["case"] if lines else "nothing"
    assert done.returncode == 0, f"{version}: exit status {done.returncode} after {last}: {done.stderr[-2000:]}"
    return lines


def expected(version: environments.Version, line: dict[str, Any]) -> str:
    case, library = line["case"], line["how"] == "with" and version >= environments.OLDEST
    if case in REFUSED:
        return "refused"
    if case.startswith("native ") and (version < OPSET_21 or (case == "native bfloat16" and not library)):
        return "refused"
    if case == "native, opset 18":
        return "function"
    if not library and not case.startswith(("native", "fused")):
        return "refused"  # has no body
    return "kernel" if library else "function"


def problems(version: environments.Version, lines: Lines) -> list[str]:
    """What is not as it should be, in words."""
    found = []
    for line in lines:
        name = f"{environments.text(version)}, {line['case']}, {line['how']}"
        if line["how"] == "two sessions":
            if not line["calls"] == line["right"] == 40:
                found.append(f"{name}: {line['right']} of {line['calls']} calls are right")
            continue
        want = expected(version, line)
        if versions_table.outcome(line) != want:
            found.append(f"{name}: {versions_table.outcome(line)}, not {want}: {line.get('refused', '')[:300]}")
        elif want == "refused":
            words = REFUSED.get(line["case"], []) if version >= environments.OLDEST else []
            found += [f"{name}: no {word!r} in {line['refused']}" for word in words if word not in line["refused"]]
        else:
            limit = TOLERANCE.get(line["case"].split()[-1], 2e-6)
            if not line["difference"] <= limit:
                found.append(f"{name}: differs by {line['difference']}")
            # A library that asks for an API version which the runtime lacks makes it complain here.
            if line["stderr"] and version >= environments.OLDEST:
                found.append(f"{name}: said {line['stderr']}")
    return found


@pytest.mark.parametrize("place", [0, 1, 2], ids=["oldest", "middle", "newest"])
def test_one_library_for_the_oldest_middle_and_newest_version(
    place: int, cases: pathlib.Path, versions: tuple[environments.Version, ...]
) -> None:
    version = versions[place * (len(versions) - 1) // 2]
    lines = probe(version, cases)
    assert problems(version, lines) == []
    assert versions_table.written_row(version) in (None, versions_table.row(version, lines))


@pytest.mark.slow
@pytest.mark.parametrize("python", [python for python in environments.PYTHONS if python != environments.THIS])
def test_the_same_library_with_other_pythons(
    python: str, cases: pathlib.Path, versions: tuple[environments.Version, ...]
) -> None:
    """The oldest and the newest version that has a wheel for it; `make test-versions` says which Pythons it found."""
    if environments.command_of(python) is None:
        pytest.skip(f"no python{python} on this machine")
    there = environments.supported(python)
    for version in (there[0], there[-1]):
        assert problems(version, probe(version, cases, python)) == []


@pytest.mark.slow
def test_an_older_runtime_says_what_it_lacks_and_runs_fused_models(
    cases: pathlib.Path, versions: tuple[environments.Version, ...]
) -> None:
    """With the library registered, too: by their functions."""
    for version in environments.too_old():
        lines = probe(version, cases)
        assert problems(version, lines) == []
        said = {line["stderr"] for line in lines if line["how"] == "with" and "stderr" in line}
        assert said
        assert all("API version [17] is not available" in text for text in said)


@pytest.mark.slow
def test_one_library_for_every_version(cases: pathlib.Path, versions: tuple[environments.Version, ...]) -> None:
    """What is seen goes to `out/versions.json`, from which the README's table is made."""
    found, rows = [], []
    for version in environments.too_old() + versions:
        lines = probe(version, cases)
        found += problems(version, lines)
        rows.append(versions_table.row(version, lines))
    assert found == []
    versions_table.SEEN.write_text(json.dumps(rows, indent=1))
