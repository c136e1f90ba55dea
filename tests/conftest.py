"""What all tests share: with CI=true, a test that had to run and was skipped is a failure."""

from __future__ import annotations

import os

import pytest

REQUIRED = ("ort", "torch")
"""Markers of tests that nothing may skip in CI: what they need is installed there."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    # An expected failure is reported as skipped too, with `wasxfail`.
    if report.skipped and not hasattr(report, "wasxfail") and is_required(item) and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and in CI it must run: {report.longrepr}"
    return report


def is_required(item: pytest.Item) -> bool:
    """A test that nothing may skip in CI, unless it needs what CI lacks."""
    marked = {marker.name for marker in item.iter_markers()}
    return bool(marked.intersection(REQUIRED)) and not marked.intersection({"cuda", "models"})
