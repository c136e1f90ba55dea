"""The layer between ONNX Runtime and the kernels, in a stand-in for ONNX Runtime, under the sanitizers.

`ort_layer_test` uses many threads and lets every single call fail; `ort_layer_fuzz` makes a runtime, a node and its
tensors out of bytes. tests/corpus/ort_layer.txt has the inputs that libFuzzer kept, one a line, in base64; to look for more:

    CXX=clang++ cmake -S custom_ops -B build/fuzz -DGN_ONNX_CUDA=OFF -DGN_ONNX_TESTS=ON -DGN_ONNX_SANITIZE=fuzzer
    cmake --build build/fuzz --target ort_layer_fuzz
    build/fuzz/tests/ort_layer_fuzz -max_len=400 CORPUS_FOLDER
"""

from __future__ import annotations

import base64
import os
import pathlib
import shutil
import subprocess

import pytest
from sanitized import BASELINE, CUSTOM_OPS, PATH, baseline, build

TESTS = pathlib.Path(__file__).parent

pytestmark = pytest.mark.skipif(
    shutil.which("cmake", path=PATH) is None or shutil.which(os.environ.get("CXX", "c++")) is None,
    reason="no CMake or no C++ compiler",
)
LAYER = ("ort_layer_test", "ort_layer_fuzz")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("corpus")
    lines = (TESTS / "corpus" / "ort_layer.txt").read_text().split()
    for number, line in enumerate(lines):
        (folder / str(number)).write_bytes(base64.b64decode(line))
    return folder


def check(programs: pathlib.Path, corpus: pathlib.Path, count: int) -> None:
    """Both programs end without a word of a sanitizer."""
    fuzz = [str(programs / "ort_layer_fuzz"), "--random", str(count), "1", str(corpus)]
    for command in ([str(programs / "ort_layer_test")], fuzz):
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stderr == ""
    known = len(list(corpus.iterdir()))
    assert done.stdout == f"{known} known inputs, {count} drawn\n"


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_find_nothing(sanitizer: str, corpus: pathlib.Path) -> None:
    check(baseline(sanitizer), corpus, 300)


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_find_nothing_in_what_is_shipped(sanitizer: str, tmp_path: pathlib.Path, corpus: pathlib.Path) -> None:
    """With the kernels for this processor, optimised."""
    check(build(tmp_path, sanitizer, "-DCMAKE_CXX_FLAGS=-O2", programs=LAYER), corpus, 20_000)


UNGUARDED = "return [](const Api&, auto&& body) -> Status* { body(); return nullptr; }(group_norm->api(), [&] {"
BROKEN = {
    "a size beside a zero is multiplied": (
        "group_norm_kernel.cc",
        "if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return;",
        "",
    ),
    "half a registration stays": (
        "register.cc",
        "Domain(domain, api.ReleaseCustomOpDomain)",
        "Domain(domain, [](auto*) {})",
    ),
    "an error is not released": ("handles.h", "  api.ReleaseStatus(status);\n  throw", "  throw"),
    "registration is not locked": ("register.cc", "  const std::lock_guard lock(mutex);\n", ""),
    "an exception leaves the library": ("group_norm_op.cc", "return guarded(group_norm->api(), [&] {", UNGUARDED),
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the sources to be broken, and beside it build folders that keep what has not changed."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(CUSTOM_OPS, folder / "custom_ops")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mistake", BROKEN)
def test_broken_layers_are_noticed(mistake: str, workshop: pathlib.Path, corpus: pathlib.Path) -> None:
    name, right, wrong = BROKEN[mistake]
    source = workshop / "custom_ops" / "src" / "ort" / name
    text = source.read_text()
    assert text.count(right) == 1, f"{name} no longer has the line that this test breaks"
    source.write_text(text.replace(right, wrong))
    sanitizer = "thread" if "lock" in mistake else "address"
    try:
        sources = workshop / "custom_ops"
        programs = build(workshop / sanitizer, sanitizer, *BASELINE, source=sources, programs=LAYER)
        with pytest.raises(AssertionError, match=r"BROKEN|Sanitizer|terminate|runtime error"):
            check(programs, corpus, 300)
    finally:
        source.write_text(text)
