"""What all tests share: with CI=true, a test that had to run and was skipped is a failure."""

from __future__ import annotations

import os
import pathlib

import pytest
from hypothesis import settings

# The same inputs in every run, so that a change is never blamed for a failure that it did not cause; the long runs that
# these variables ask for draw others each time.
settings.register_profile("repeatable", derandomize=True)
if not {"GN_ONNX_FUZZ", "GN_ONNX_FUZZ_CASES"} & set(os.environ):
    settings.load_profile("repeatable")

MAY_BE_SKIPPED = {"cuda", "models", "browser"}
"""Markers of tests for what CI may lack. Everything else runs there, or CI fails: its tools, compilers and packages are
installed by `make`."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    # An expected failure is reported as skipped too, with `wasxfail`.
    if report.skipped and not hasattr(report, "wasxfail") and must_run(item):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and in CI it must run: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """The same for a whole module that `pytest.importorskip` leaves out."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped, and in CI it must run: {report.longrepr}"
    return report


def must_run(item: pytest.Item) -> bool:
    """In CI, unless the test needs what CI may lack; the long runs may lack more."""
    marked = {marker.name for marker in item.iter_markers()}
    return os.environ.get("CI") == "true" and not marked & (MAY_BE_SKIPPED | {"slow"})


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The CUDA kernels' C functions, emulated."""
    from test_cuda_kernels import build_emulated

    built: pathlib.Path = build_emulated.library(tmp_path_factory.mktemp("emulated"))
    return built
