"""`make demo` does what the README says."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from models import demo

pytestmark = [pytest.mark.ort, pytest.mark.torch, pytest.mark.slow]


def test_the_demo_fuses_everything_and_agrees_with_pytorch(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "RUNS", 2)
    assert demo.main() == 0
    shown = capfd.readouterr().out
    assert "GroupNorms fused  101 of 101" in shown
    for part in ("scores", "boxes", "centreness", "latency", "opset 21, with library"):
        assert part in shown
