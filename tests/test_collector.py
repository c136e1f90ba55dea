"""Python's garbage collector is as it was after a model has been worked on."""

from __future__ import annotations

import gc

import pytest
from hand_models import detector

from gn_onnx import GnOnnxError, collector, fuse


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_as_it_was(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        with collector.paused():
            assert not gc.isenabled()
        assert fuse(detector()).fused
        assert gc.isenabled() == enabled
        with pytest.raises(GnOnnxError):
            fuse("no such file.onnx")
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
