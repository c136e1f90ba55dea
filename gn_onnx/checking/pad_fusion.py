"""A wrong result that is ONNX Runtime's own: its optimizer Pad_Fusion, on models with a Pad before a MaxPool.

It folds a Pad with zeros into MaxPool, whose own padding is minus infinity; where a window has negative numbers only,
the maximum is another one. Sessions here leave that optimizer out (`ort_runner.DISABLED_OPTIMIZERS`). A user's session
has it, and shows a difference from PyTorch that fusing GroupNorms has nothing to do with: that is said here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx

from gn_onnx.checking import ort_runner, tolerances
from gn_onnx.checking.comparison import compare_outputs
from gn_onnx.errors import GnOnnxError


def may_matter(proto: onnx.ModelProto) -> bool:
    """Whether a MaxPool takes what a Pad gives."""
    padded = {name for node in proto.graph.node if node.op_type == "Pad" for name in node.output}
    return any(node.op_type == "MaxPool" and node.input[0] in padded for node in proto.graph.node)


def notes(
    proto: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    results: Mapping[str, np.ndarray],
    options: ort_runner.Options,
) -> list[str]:
    """One sentence where ONNX Runtime as it comes computes something else; empty where it does not.

    Args:
        proto: The model, fused or not.
        feeds: Its inputs.
        results: Its outputs without the optimizer.
        options: How it was run.
    """
    if not may_matter(proto):
        return []
    try:
        usual = ort_runner.Session(proto, dataclasses.replace(options, disabled_optimizers=())).run(feeds)
    except GnOnnxError:
        return []
    compared = compare_outputs(results, usual, coarsest=tolerances.coarsest(proto))
    worst = max(compared, key=lambda comparison: comparison.relative)
    if worst.ok:
        return []
    return [
        f"not from fusing: ONNX Runtime's Pad_Fusion moves output {worst.name!r} by {worst.max_abs:.1e}"
        f" (relative {worst.relative:.1e}) with or without fused GroupNorms; compared here without it, as"
        ' InferenceSession(..., disabled_optimizers=["Pad_Fusion"]) does'
    ]
