"""Are the CUDA kernels right: every regime, type, layout and activation against float64.

Outputs are poisoned before each run, inputs are drawn anew for each check. A run is repeated and a sample is taken out
of its batch: both must give the same bits. Imports: numpy, ml_dtypes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gn_onnx.benchmarks.cuda_raw import (
    ACTIVATIONS,
    DTYPES,
    Limits,
    Memory,
    Plan,
    Pointers,
    Problem,
    RawKernels,
    describe,
    make_problem,
)
from gn_onnx.errors import GnOnnxError
from gn_onnx.reference import group_norm

KINDS = ("ordinary", "low variance", "large mean", "near float16's limit")

_NO_CLUSTERS = {"max_cluster_blocks": 1, "multiprocessors": 2}
_TINY_CLUSTERS = {"max_cluster_blocks": 8, "multiprocessors": 2, "shared_memory_per_block_optin": 12 * 1024}
_WIDE_CLUSTERS = {"max_cluster_blocks": 8, "multiprocessors": 132}
_TINY = {"max_cluster_blocks": 1, "multiprocessors": 2, "shared_memory_per_block_optin": 6 * 1024}


@dataclasses.dataclass(frozen=True)
class Check:
    """One shape and the device limits that lead the plan to a regime.

    Attributes:
        shape: N, C, spatial.
        num_groups: Of C.
        channels_last: The layout.
        limits: Fields of the device's limits to replace, always by less than the device has.
        shift: Elements by which x and y are misaligned.
    """

    shape: tuple[int, int, int]
    num_groups: int
    channels_last: bool = False
    limits: dict[str, int] = dataclasses.field(default_factory=dict)
    shift: tuple[int, int] = (0, 0)


CHECKS = (
    Check((7, 16, 64), 4),
    Check((3, 9, 49), 9),
    Check((2, 10, 3), 5),
    Check((2, 8, 33), 2, shift=(1, 0)),
    Check((2, 16, 1020), 4, limits=_NO_CLUSTERS),
    Check((2, 8, 4096), 2, limits=_WIDE_CLUSTERS),
    Check((2, 4, 11000), 2, limits=_NO_CLUSTERS),
    Check((2, 3, 7001), 3, limits=_NO_CLUSTERS),
    Check((2, 4, 9000), 2, limits=_TINY_CLUSTERS),
    Check((2, 3, 4999), 1, limits=_TINY_CLUSTERS, shift=(1, 3)),
    Check((2, 4, 20000), 1, limits=_TINY),
    Check((2, 3, 15001), 1, limits=_TINY),
    Check((3, 32, 49), 8, channels_last=True),
    Check((2, 40, 900), 4, channels_last=True, limits=_NO_CLUSTERS),
    Check((2, 15, 400), 5, channels_last=True),
    Check((2, 64, 1600), 8, channels_last=True, limits=_WIDE_CLUSTERS),
    Check((2, 32, 900), 4, channels_last=True, limits=_TINY),
    Check((1, 1601, 9), 1, channels_last=True),
)

REDUCED = tuple(CHECKS[index] for index in (0, 3, 4, 5, 8, 9, 10, 12, 15, 16))
"""For compute-sanitizer, under which a kernel runs a hundred times slower."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of all checks.

    Attributes:
        checks: How many were made.
        failures: What was wrong, one line each.
        regimes: Regime, layout, vector width and type of every check that ran, and how often.
        worst: Largest error as a share of its tolerance.
        skipped: Checks for which no time was left.
    """

    checks: int
    failures: tuple[str, ...]
    regimes: dict[str, int]
    worst: float
    skipped: int

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def run(
    kernels: RawKernels,
    memory: Memory,
    *,
    checks: tuple[Check, ...] = CHECKS,
    deadline: float = float("inf"),
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """All checks x types x activations; the kinds of input take turns.

    Args:
        kernels: The library's functions.
        memory: Where their data lies.
        checks: Shapes.
        deadline: By time.monotonic(); what is left then is skipped and counted.
        progress: Told about each failure.
    """
    device = kernels.limits()
    failures: list[str] = []
    regimes: dict[str, int] = {}
    worst, made, skipped = 0.0, 0, 0
    for turn, (check, dtype, activation) in enumerate(_every(checks)):
        if time.monotonic() > deadline:
            skipped += 1
            continue
        kind = KINDS[turn % len(KINDS)]
        problem = make_problem(
            check.shape, check.num_groups, dtype, channels_last=check.channels_last, activation=activation
        )
        limits = lower_limits(device, check.limits)
        plan = kernels.plan(problem, limits, aligned=check.shift == (0, 0))
        name = f"{plan.regime}, {'last' if check.channels_last else 'first'}, x{plan.vector_elements}, {dtype}"
        regimes[name] = regimes.get(name, 0) + 1
        try:
            error = _run_one(kernels, memory, problem, limits, plan, check, kind, seed=turn)
        except GnOnnxError as exception:
            failures.append(f"{describe(problem)}, {kind}, {plan.regime}: {exception}")
        else:
            worst = max(worst, error)
        made += 1
        if failures and progress is not None and len(failures) <= 20:
            progress(failures[-1])
    return Outcome(made, tuple(failures), regimes, worst, skipped)


def _every(checks: tuple[Check, ...]) -> Iterator[tuple[Check, str, str]]:
    for check in checks:
        for dtype in DTYPES:
            for activation in ACTIVATIONS:
                yield check, dtype, activation


def lower_limits(device: Limits, replaced: dict[str, int]) -> Limits:
    """The device's limits with some replaced, none of them raised."""
    limits = Limits.from_buffer_copy(device)
    for field, value in replaced.items():
        setattr(limits, field, min(value, getattr(device, field)))
    return limits


def _run_one(
    kernels: RawKernels,
    memory: Memory,
    problem: Problem,
    limits: Limits,
    plan: Plan,
    check: Check,
    kind: str,
    *,
    seed: int,
) -> float:
    """Largest error as a share of the tolerance.

    Raises:
        GnOnnxError: It is above 1, or bits differ that must not.
    """
    dtype = tuple(DTYPES.values())[problem.dtype]
    arrays = draw(problem, kind, seed)
    call = Caller(kernels, memory, limits, arrays, (dtype.itemsize * check.shift[0], dtype.itemsize * check.shift[1]))
    y = call(problem, arrays[0])
    expected = reference(problem, *arrays)
    share = np.abs(y.astype(np.float64) - expected) / tolerance(dtype, np.abs(expected))
    worst = float(share.max()) if np.isfinite(share).all() else float("inf")
    if not worst <= 1:
        raise GnOnnxError(f"{worst:.3g} times the tolerance")
    if call(problem, arrays[0]).tobytes() != y.tobytes():
        raise GnOnnxError("a second run gave other bits")
    for sample in range(problem.batch if problem.batch > 1 else 0):
        alone = Problem.from_buffer_copy(problem)
        alone.batch = 1
        if call(alone, arrays[0][sample : sample + 1]).tobytes() != y[sample].tobytes():
            raise GnOnnxError(f"sample {sample} alone has other bits than in its batch ({plan})")
    return worst


class Caller:
    """Runs one problem on fresh, poisoned memory."""

    def __init__(
        self, kernels: RawKernels, memory: Memory, limits: Limits, arrays: Arrays, shift: tuple[int, int] = (0, 0)
    ) -> None:
        self._kernels, self._memory, self._limits, self._shift = kernels, memory, limits, shift
        self._scale, self._bias = (self._upload(array, 0) for array in arrays[1:])

    def _upload(self, array: Array, shift: int) -> Any:
        region = self._memory.allocate(array.nbytes, shift)
        self._memory.write(region, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return region

    def __call__(self, problem: Problem, x: Array) -> Array:
        source = self._upload(x, self._shift[0])
        target = self._memory.allocate(x.nbytes, self._shift[1])
        workspace = self._memory.allocate(max(self._kernels.workspace_bytes(problem, self._limits), 16), 0)
        pointers = Pointers(source.pointer, self._scale.pointer, self._bias.pointer, target.pointer, workspace.pointer)
        self._kernels.group_norm(problem, self._limits, pointers, self._memory.stream())
        y = self._memory.read(target).view(x.dtype).reshape(x.shape)
        self._memory.read(workspace)
        return y


Array = np.ndarray[Any, Any]
Arrays = tuple[Array, Array, Array]


def draw(problem: Problem, kind: str, seed: int) -> Arrays:
    """x [N, C, S] or [N, S, C], scale [C], bias [C]."""
    rng = np.random.default_rng(seed)
    dtype = tuple(DTYPES.values())[problem.dtype]
    normal = rng.standard_normal(problem.batch * problem.channels * problem.spatial)
    # As many deviations as the type can still tell apart.
    large = {"float32": 1e4, "float16": 100.0}.get(dtype.name, 10.0)
    x = {
        "ordinary": normal * 2 + 0.5,
        "low variance": normal * np.sqrt(problem.epsilon),
        "large mean": normal + large,
        "near float16's limit": np.where(normal > 0, 60000.0, -60000.0),
    }[kind].astype(dtype)
    last = (problem.spatial, problem.channels) if problem.layout else (problem.channels, problem.spatial)
    scale = rng.uniform(0.5, 2, problem.channels).astype(dtype)
    bias = rng.standard_normal(problem.channels).astype(dtype)
    return x.reshape(problem.batch, *last), scale, bias


def reference(problem: Problem, x: Array, scale: Array, bias: Array) -> Array:
    """In float64."""
    return group_norm(
        x.astype(np.float64),
        scale.astype(np.float64),
        bias.astype(np.float64),
        num_groups=problem.num_groups,
        epsilon=problem.epsilon,
        channels_last=bool(problem.layout),
        activation=ACTIVATIONS[problem.activation],
        alpha=problem.alpha,
    )


def tolerance(dtype: np.dtype[Any], magnitude: Array) -> Array:
    """Half a unit in the last place of the result, plus 16 roundings of float32 arithmetic on values of this size.

    Nothing is added for a large mean: the kernels subtract it exactly.
    """
    result: Array = half_ulp(dtype, magnitude) + 16 * 2.0**-23 * (1 + magnitude)
    return result


def half_ulp(dtype: np.dtype[Any], magnitude: Array) -> Array:
    """What rounding to the type may cost, and a hundredth more."""
    ulp = {"float32": 2.0**-23, "float16": 2.0**-10}.get(dtype.name, 2.0**-7)
    result: Array = 0.505 * ulp * magnitude + (2.0**-25 if dtype.name == "float16" else 0.0)
    return result
