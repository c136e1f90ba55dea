"""How far two computations of the same model may differ: the one table, and where its numbers come from.

Both sides round every intermediate value to the type T of the tensors, unit u = half an ulp of 1. Let the
network have depth d (rounding steps from input to output). Rounding errors of one layer are independent, and
normalisations keep the scale of activations near 1, so that after d layers the root mean square error is near
u * sqrt(d) and the largest of n elements near u * sqrt(d) * sqrt(2 ln n), at most 6 times the former for any
tensor that fits a machine. Reordered sums inside a convolution add a factor near sqrt(ln K), at most 4.
With d <= 400 (a diffusion UNet has about 300):

    largest error / largest value  <=  6 * 4 * sqrt(400) * u = 480 u

Taken are 512 u for float32 (3.1e-5) and float64 (5.7e-14). float16 and bfloat16 are mostly computed in float32
and rounded once per operator, so that only the factor sqrt(d) of the root mean square remains: 32 u, 1.6e-2 and
1.3e-1.

A difference above the table is not yet an error of the fused model: `verify` then asks which side is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
"""Half the distance from 1 to the next number of the type."""

GROWTH = {"float16": 32.0, "bfloat16": 32.0, "float32": 512.0, "float64": 512.0}

SITE_FLOAT64 = 2e-6
"""One GroupNorm evaluated in float64 as its original subgraph and as the formula. At mean = 1e4 * std the form
E[x^2] - E[x]^2 loses 1e8 of 1/u = 9e15, which leaves a relative error near 1e-7 in y; scale and bias that were
folded and rounded to T are allowed for on top (`site_tolerance`)."""


def name_of(dtype: np.dtype[np.generic]) -> str:
    """`float16`, `bfloat16`, `float32` or `float64`; other types have no tolerance: they must be equal."""
    return "bfloat16" if dtype == ml_dtypes.bfloat16 else dtype.name


def output_tolerance(dtype: np.dtype[np.generic]) -> float:
    """Largest |difference| allowed, relative to the largest |value| of the output; 0 for integers."""
    name = name_of(dtype)
    return UNIT[name] * GROWTH[name] if name in UNIT else 0.0


def coarsest(proto: onnx.ModelProto) -> float:
    """Tolerance of the shortest floating-point type inside a model: a float32 output of a float16 network has its errors.

    Types are those of inputs and weights, and targets of Cast.
    """
    kinds = {value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.value_info)}
    kinds |= {tensor.data_type for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Cast":
            kinds |= {attribute.i for attribute in node.attribute if attribute.name == "to"}
    names = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"}
    return max((UNIT[name] * GROWTH[name] for kind, name in names.items() if kind in kinds), default=0.0)


def site_tolerance(dtype: np.dtype[np.generic]) -> float:
    """Largest |difference| allowed for one site in float64, relative to |scale * x_hat| + |bias| per channel."""
    return SITE_FLOAT64 + 1.01 * UNIT.get(name_of(dtype), 0.0)


def input_condition(feeds: Mapping[str, np.ndarray]) -> float:
    """The largest |mean| / std of a sample of any input, at least 1: what one rounding of x may grow to behind a norm."""
    worst = 1.0
    for array in feeds.values():
        if array.dtype.kind not in "fV" or array.ndim < 2 or not array.size:
            continue
        samples = array.reshape(array.shape[0], -1).astype(np.float64)
        with np.errstate(all="ignore"):
            ratio = np.abs(samples.mean(axis=1)) / samples.std(axis=1)
        worst = max(worst, float(ratio[np.isfinite(ratio)].max(initial=1.0)))
    return worst


def conditioned(tolerance: float, x: np.ndarray, num_groups: int, *, channels_last: bool = False) -> float:
    """The tolerance for one GroupNorm run in type T on this x, [N, C, *spatial].

    Rounding the mean of a group to T shifts x - mean by u * |mean|, that is by u * |mean| / std in y. An
    implementation that keeps this bound is as good as perturbing x by one rounding; E[x^2] - E[x]^2 is not: its
    error grows with the square.
    """
    planar = np.moveaxis(x, -1, 1) if channels_last else x
    if not planar.size or planar.ndim < 2 or planar.shape[1] % max(num_groups, 1):
        return tolerance
    groups = planar.reshape(planar.shape[0] * max(num_groups, 1), -1).astype(np.float64)
    with np.errstate(all="ignore"):
        ratio = np.abs(groups.mean(axis=1)) / np.maximum(groups.std(axis=1), 1e-300)
    ratio = ratio[np.isfinite(ratio) & (groups.std(axis=1) > 0)]
    return tolerance * max(1.0, float(ratio.max(initial=0.0)))
