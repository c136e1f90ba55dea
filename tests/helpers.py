"""What many tests share: three kinds of input, the definition in float64, running a model, and one tolerance.

Two graphs are compared by their meaning over the reals: both run in float64 (evaluate.py), so that the noise of
E[x^2] - E[x]^2 in float32 neither hides a wrong rewrite nor looks like one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import onnx
from evaluate import Evaluator, wide

KINDS = ("ordinary", "low variance", "large mean")
"""Low variance (std near sqrt(epsilon)) shows an epsilon that was lost or moved; a large mean (3e3 * std) shows a mean
that was taken of something else."""

TOLERANCE = {"float64": 2e-6, "float32": 1e-5, "float16": 5e-2, "bfloat16": 0.4}
"""Largest |difference| of two graphs run in float64, relative to the largest |value| of the output. With mean = 3e3 *
std, E[x^2] - E[x]^2 loses 1e7 of float64's 2e-16: 2e-9 of the variance. Epsilon becomes an attribute in float32, scale
and bias that were multiplied into one constant are rounded to the element type, u = 2^-24, 2^-11 or 2^-8: 100 u."""


def group_norm(
    x: np.ndarray, scale: np.ndarray, bias: np.ndarray, num_groups: int, epsilon: float, *, channels_last: bool = False
) -> np.ndarray:
    """The definition, in float64. x: [N, C, *spatial] or [N, *spatial, C]; scale, bias: [C] or [1]."""
    planar = np.moveaxis(x, -1, 1) if channels_last else x
    groups = planar.astype(np.float64).reshape(planar.shape[0], num_groups, -1)
    centred = groups - groups.mean(axis=2, keepdims=True)
    normal = (centred / np.sqrt(np.square(centred).mean(axis=2, keepdims=True) + epsilon)).reshape(planar.shape)
    column = (-1,) + (1,) * (planar.ndim - 2)
    y = normal * np.asarray(scale, np.float64).reshape(column) + np.asarray(bias, np.float64).reshape(column)
    return np.moveaxis(y, 1, -1) if channels_last else y


def sample(kind: str, shape: tuple[int, ...], epsilon: float = 1e-5, seed: int = 0) -> np.ndarray:
    """One of the three `KINDS`, or "zero": every group is constant. float64."""
    if kind == "zero":
        return np.zeros(shape)
    rng = np.random.default_rng([seed, len(kind), *shape])
    noise = rng.standard_normal(shape)
    if kind == "low variance":
        return 0.5 * np.sqrt(epsilon) + np.sqrt(epsilon) * noise
    return noise if kind == "ordinary" else noise + 3e3 * np.sign(noise.ravel()[0] + 2.0)


def meant(array: np.ndarray) -> np.ndarray:
    """A constant as its author meant it: 1/n, sqrt(n) and 1/sqrt(n) rounded to float16 or float32 are read exactly."""
    if array.dtype.kind in "iub" or array.dtype == np.float64 or array.size != 1:
        return wide(array)
    value = float(array.ravel()[0])
    unit = 4 * (2.0**-11 if array.dtype.itemsize == 2 else 2.0**-24)
    if value == 0.0 or not np.isfinite(value):
        return wide(array)
    for power in (-1.0, 2.0, -2.0):
        whole = round(abs(value) ** power) if abs(value) ** power < 1e6 else 0
        if whole > 1 and abs(abs(value) ** power / whole - 1.0) < unit:
            return np.full(array.shape, np.sign(value) * whole ** (1.0 / power))
    return wide(array)


def evaluator(model: onnx.ModelProto) -> Evaluator:
    """Compiled, with constants read as they were meant."""
    return Evaluator(model, meant)


def difference(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> float:
    """Largest |got - want| relative to the largest |want| of each output; inf when shapes or NaNs differ."""
    worst = 0.0
    for name, w in want.items():
        g = got[name]
        if g.shape != w.shape or g.dtype.kind != w.dtype.kind:
            return float("inf")
        g, w = g.astype(np.float64), w.astype(np.float64)
        if not np.array_equal(np.isnan(g), np.isnan(w)) or not np.array_equal(np.isinf(g), np.isinf(w)):
            return float("inf")
        finite = np.isfinite(w)
        size = float(np.max(np.abs(w[finite]), initial=1e-9))
        worst = max(worst, float(np.max(np.abs(g[finite] - w[finite]), initial=0.0)) / size)
    return worst


def run_ort(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], *, library: bool = False) -> dict[str, np.ndarray]:
    """The outputs by ONNX Runtime on the CPU, with or without the operator library."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(_library_path())
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


@functools.cache
def _library_path() -> str:
    import gn_onnx

    return str(gn_onnx.library_path())


def _is_group_norm(node: onnx.NodeProto) -> bool:
    return (
        (node.domain == "gn_onnx" and node.op_type.startswith("GroupNormalization"))
        or (node.domain in ("", "ai.onnx") and node.op_type == "GroupNormalization")
        or (node.domain == "com.microsoft" and node.op_type in ("GroupNorm", "SkipGroupNorm"))
    )


def group_norm_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """GroupNorm nodes: each one in a graph or its subgraphs once, each one in a local function once per call."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions if f.domain != "gn_onnx"}
    found: list[onnx.NodeProto] = []

    def visit(nodes: list[onnx.NodeProto]) -> None:
        for node in nodes:
            if _is_group_norm(node):
                found.append(node)
            elif (node.domain, node.op_type, node.overload) in functions:
                visit(functions[node.domain, node.op_type, node.overload].node)
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    visit(graph.node)

    visit(model.graph.node)
    return found


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
