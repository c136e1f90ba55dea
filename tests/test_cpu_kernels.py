"""The CPU kernels without ONNX Runtime: custom_ops/tests/cpu_group_norm_test.cc, which says what it checks.

It is built as it is shipped, with the sanitizers, and with kernels that are broken on purpose and must make it fail.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import sanitized

CUSTOM_OPS = pathlib.Path(__file__).parents[1] / "custom_ops"
PATH = os.pathsep.join((str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")))
CMAKE = shutil.which("cmake", path=PATH)

QUICKLY_BUILT = ("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O1")

pytestmark = pytest.mark.skipif(
    CMAKE is None or shutil.which(os.environ.get("CXX", "c++")) is None, reason="no CMake or no C++ compiler"
)


def build(folder: pathlib.Path, *options: str, source: pathlib.Path = CUSTOM_OPS) -> pathlib.Path:
    environment = os.environ | {"PATH": PATH}
    configure = [str(CMAKE), "-S", str(source), "-B", str(folder), "-DGN_ONNX_CUDA=OFF", "-DGN_ONNX_TESTS=ON", *options]
    compile_ = [str(CMAKE), "--build", str(folder), "--target", "cpu_group_norm_test", "--parallel", "2"]
    for command in (configure, compile_):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "tests" / "cpu_group_norm_test"


def run(program: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return build(tmp_path_factory.mktemp("released"))


def test_kernels_agree_with_the_definition(released: pathlib.Path) -> None:
    """Every instruction set, type, layout and activation; the same bits in every batch, order and place."""
    result = run(released, "--quick")
    assert result.returncode == 0, result.stdout[-4000:]


@pytest.mark.slow
def test_kernels_agree_with_the_definition_on_large_tensors(released: pathlib.Path) -> None:
    result = run(released, "--large")
    assert result.returncode == 0, result.stdout[-4000:]


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_find_nothing(sanitizer: str) -> None:
    result = run(sanitized.baseline(sanitizer) / "cpu_group_norm_test", "--quick")
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_find_nothing_with_every_instruction_set(sanitizer: str, tmp_path: pathlib.Path) -> None:
    result = run(build(tmp_path, f"-DGN_ONNX_SANITIZE={sanitizer}", *QUICKLY_BUILT), "--quick")
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


BROKEN = {
    "the distance between the parts' means is left out": (
        "moments.h",
        " + delta * delta * (a.count * b.count / count)",
        "",
    ),
    "the mean keeps only the digits of float": ("rows.h", " - to_double(factor) * rest", ""),
    "the shift is not corrected for": ("moments.h", "d.squares - d.sum * offset", "d.squares"),
    "a bad shift is kept": (
        "moments.h",
        "moments_of(deviations(x, count, mean), static_cast<double>(mean), n, &result);",
        "static_cast<void>(mean);",
    ),
    "a bad shift is kept in columns": ("column_sums.h", "if (take(count, result)) return;", "take(count, result); return;"),
    "the batch decides where a chunk is cut": (
        "channels_first.h",
        "return FirstLook<T>(begin, chunk_end(chunk) - chunk_begin(chunk)).moments();",
        """
        const std::int64_t count = chunk_end(chunk) - chunk_begin(chunk);
        const std::int64_t first = plan_.groups > 3 ? count / 3 : 0;
        const Moments rest = FirstLook<T>(begin + first, count - first).moments();
        return first == 0 ? rest : combine(FirstLook<T>(begin, first).moments(), rest);
        """,
    ),
    "a row's end is read after it was written": (
        "rows.h",
        "store(y + last, tail);",
        "store(y + last, result(load(x + last) + 0 * tail));",
    ),
    "a row takes the bias of another": (
        "channels_first.h",
        "bias_ + channel);",
        "bias_ + first_channel);",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", BROKEN)
def test_broken_kernels_fail(mistake: str, tmp_path: pathlib.Path) -> None:
    name, right, wrong = BROKEN[mistake]
    root = tmp_path / "custom_ops"
    shutil.copytree(CUSTOM_OPS, root)
    source = root / "src" / "cpu" / name
    text = source.read_text()
    assert text.count(right) == 1, f"{name} no longer has the line that this test breaks"
    source.write_text(text.replace(right, wrong))
    result = run(build(tmp_path / "build", *QUICKLY_BUILT, "-DGN_ONNX_BASELINE_ONLY=ON", source=root), "--quick")
    assert result.returncode != 0, "the tests did not notice"
