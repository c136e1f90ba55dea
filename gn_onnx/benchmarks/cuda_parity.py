"""Is our error ever larger than PyTorch's own: both against float64, on the same four kinds of input.

An error is what is left after the rounding that the result's type makes unavoidable, in units of one float32 rounding
of a value of that size. Imports: numpy; torch inside a function.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gn_onnx.benchmarks import cuda_checks
from gn_onnx.benchmarks.cuda_checks import Array, Arrays, Check
from gn_onnx.benchmarks.cuda_raw import DTYPES, Memory, Problem, RawKernels, make_problem

NEGLIGIBLE = 6.0
"""Roundings of float32 that nobody need be better than: the order of a sum alone makes that difference."""

PARITY_CHECKS = (
    Check((2, 32, 64), 8),
    Check((1, 32, 1020), 2),
    Check((1, 16, 9000), 1),
    Check((1, 3, 7001), 3),
    Check((1, 2, 40000), 1, limits={"max_cluster_blocks": 1, "shared_memory_per_block_optin": 12 * 1024}),
    Check((1, 64, 600), 8, channels_last=True),
)
"""A warp per group, registers, a cluster, unaligned groups, two launches, channels last."""


@dataclasses.dataclass(frozen=True)
class Row:
    """The largest errors for one kind of input and one type, over all shapes."""

    kind: str
    dtype: str
    ours: float
    torch: float

    @property
    def worse(self) -> bool:
        return not self.ours <= max(self.torch, NEGLIGIBLE)  # also when it is not a number


def run(kernels: RawKernels, memory: Memory, device: str) -> list[Row]:
    """One row for each kind of input and type.

    Args:
        kernels: Ours.
        memory: Where our data lies.
        device: Where PyTorch computes.
    """
    rows = []
    for seed, kind in enumerate(cuda_checks.KINDS):
        for dtype in DTYPES:
            ours = theirs = 0.0
            for check in PARITY_CHECKS:
                problem = make_problem(check.shape, check.num_groups, dtype, channels_last=check.channels_last)
                arrays = cuda_checks.draw(problem, kind, 1000 + seed)
                expected = cuda_checks.reference(problem, *arrays)
                limits = cuda_checks.lower_limits(kernels.limits(), check.limits)
                y = cuda_checks.Caller(kernels, memory, limits, arrays)(problem, arrays[0])
                ours = _larger(ours, roundings(y, expected))
                theirs = _larger(theirs, roundings(_torch(problem, arrays, device), expected))
            rows.append(Row(kind, dtype, ours, theirs))
    return rows


def _larger(a: float, b: float) -> float:
    return a if a > b else b  # not a number where b is not


def roundings(y: Array, expected: Array) -> float:
    """Largest error beyond the rounding of the result, in float32 roundings."""
    magnitude = np.abs(expected)
    unavoidable = cuda_checks.half_ulp(y.dtype, magnitude)
    beyond = np.abs(y.astype(np.float64) - expected) - unavoidable
    return float(np.maximum(beyond / (2.0**-24 * (1 + magnitude)), 0).max())


def _torch(problem: Problem, arrays: Arrays, device: str) -> Array:
    import torch

    dtype = tuple(DTYPES)[problem.dtype]

    def upload(array: Array) -> Any:  # PyTorch does not know numpy's bfloat16; float32 holds it exactly
        return torch.from_numpy(array.astype(np.float32)).to(device=device, dtype=getattr(torch, dtype))

    x, scale, bias = map(upload, arrays)
    channels_first = x.transpose(1, 2).contiguous() if problem.layout else x
    y = torch.nn.functional.group_norm(channels_first, problem.num_groups, scale, bias, problem.epsilon)
    y = y.transpose(1, 2) if problem.layout else y
    result: Array = y.float().cpu().numpy().astype(DTYPES[dtype])
    return result


def table(rows: list[Row]) -> str:
    """One line for each kind of input: ours and PyTorch's error in every type."""
    lines = [
        "largest error beyond the result's own rounding, in float32 roundings: ours / PyTorch's",
        f"{'input':22}" + "".join(f"{dtype:>22}" for dtype in DTYPES),
    ]
    for kind in cuda_checks.KINDS:
        cells = (f"{row.ours:.1f} / {row.torch:.1f}{' WORSE' if row.worse else ''}" for row in rows if row.kind == kind)
        lines.append(f"{kind:22}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)
