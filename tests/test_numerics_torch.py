"""The CPU kernels' errors beside those of PyTorch's own GroupNorm, both against a reference in long double.

Ours may never be larger, unless it is within `ROUNDINGS` units of the largest |y|: x - mean, the parameters, the product
and the sum are rounded once each whatever one does, and by luck another order of rounding can be nearer. SiLU rounds its
exponential, divisor and quotient besides.
"""

from __future__ import annotations

import numpy as np
import pytest
from test_operator_library import EPSILON, TYPES, UNIT, model, parameters, run, session

from gn_onnx.group_norm import op_type

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.ort, pytest.mark.torch]

ROUNDINGS = {"none": 2, "silu": 3}
MEANS = {"float32": 1e4, "float64": 1e4, "float16": 200.0, "bfloat16": 30.0}  # where the type still resolves 1
SUBNORMAL = {"float32": 1e-41, "float64": 1e-310, "float16": 2e-6, "bfloat16": 1e-39}
INPUTS = {
    "ordinary": lambda z, kind: z,
    "large mean": lambda z, kind: z + MEANS[kind],
    "low variance": lambda z, kind: z * np.sqrt(EPSILON),
    "constant": lambda z, kind: np.full_like(z, 0.1),
    "near float16's largest": lambda z, kind: np.sign(z) * 60000,
    "subnormal": lambda z, kind: z * SUBNORMAL[kind],
}
SHAPES = [((2, 32, 25, 25), 8), ((1, 8, 200, 150), 1), ((4, 16, 1), 16), ((3, 40), 4)]


def truth(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, num_groups: int, activation: str) -> np.ndarray:
    groups = x.astype(np.longdouble).reshape(x.shape[0], num_groups, -1)
    groups = groups - groups[:, :, :1]  # so that the mean's own rounding is relative to the spread
    centred = groups - groups.mean(axis=2, keepdims=True)
    variance = (centred**2).mean(axis=2, keepdims=True)
    normal = (centred / np.sqrt(variance + np.longdouble(np.float32(EPSILON)))).reshape(x.shape)
    per_channel = (-1,) + (1,) * (x.ndim - 2)
    y = normal * scale.astype(np.longdouble).reshape(per_channel) + bias.astype(np.longdouble).reshape(per_channel)
    return y / (1 + np.exp(-y)) if activation == "silu" else y


def pytorch(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, num_groups: int, kind: str, activation: str) -> np.ndarray:
    tensors = [torch.from_numpy(a.astype(np.float64)).to(getattr(torch, kind)) for a in (x, scale, bias)]
    y = torch.nn.functional.group_norm(tensors[0], num_groups, *tensors[1:], float(np.float32(EPSILON)))
    y = torch.nn.functional.silu(y) if activation == "silu" else y
    return y.to(torch.float64).numpy()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("values", INPUTS)
@pytest.mark.parametrize("activation", ["none", "silu"])
def test_never_worse_than_pytorch(activation: str, values: str, kind: str) -> None:
    """In both layouts."""
    for shape, num_groups in SHAPES:
        z = np.random.default_rng(1).standard_normal(shape)
        x = INPUTS[values](z, kind).astype(TYPES[kind][1])
        scale, bias = parameters(shape[1], kind)
        want = truth(x, scale, bias, num_groups, activation)
        theirs = float(np.abs(pytorch(x, scale, bias, num_groups, kind, activation) - want).max())
        unavoidable = ROUNDINGS[activation] * UNIT[kind] * float(np.abs(want).max())
        for channels_last in (False, True):
            laid_out = np.moveaxis(x, 1, -1) if channels_last else x
            of = session(model(op_type(activation, channels_last=channels_last), laid_out.shape, num_groups, kind))
            y = run(of, kind, laid_out, scale, bias)
            planar = np.moveaxis(y, -1, 1) if channels_last else y
            ours = float(np.abs(planar.astype(np.longdouble) - want).max())
            assert ours <= max(theirs, unavoidable), f"{laid_out.shape}: ours {ours:.2e}, PyTorch's {theirs:.2e}"
