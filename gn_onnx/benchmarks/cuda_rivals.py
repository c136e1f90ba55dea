"""What a user could run instead of our CUDA kernels, timed on the same tensors in the same process.

A rival that cannot run here is refused with its reason; one that computes something else is not timed.
Imports: torch and onnxruntime inside functions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any

from gn_onnx.benchmarks import cuda_models, cuda_sessions, cuda_timing
from gn_onnx.benchmarks.bench import Timing
from gn_onnx.benchmarks.cuda_raw import Limits, RawKernels
from gn_onnx.benchmarks.cuda_timing import Tensors, Timed

COPY, EMPTY, OURS, EAGER, COMPILED = (
    "device copy", "empty kernel", "gn_onnx", "PyTorch eager", "torch.compile",
)  # fmt: skip
RUNTIME = (cuda_models.OURS, cuda_models.CHAIN, cuda_models.NATIVE, cuda_models.CONTRIB)

_ERROR_FLOOR = {"float32": 2.0**-18, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Errors below this, relative to the largest value, need not be compared with PyTorch's."""


@dataclasses.dataclass
class Result:
    """One case.

    Attributes:
        timed: What was run.
        cold: Times with a cold L2 cache, by label.
        warm: Times with a warm L2 cache, by label.
        errors: Largest error against float64 relative to the largest value, by label.
        refused: Why a label has no time.
        is_cold: Whether the buffers were enough to keep the L2 cache cold.
        plan: What the launch plan chose.
    """

    timed: Timed
    cold: dict[str, Timing]
    warm: dict[str, Timing]
    errors: dict[str, float]
    refused: dict[str, str]
    is_cold: bool
    plan: str

    def ratio(self, label: str) -> float | None:
        """How many times the time of ours `label` takes, cold; None where either has none."""
        base = cuda_models.OURS if label in RUNTIME else OURS
        if {label, base} <= self.cold.keys():
            return self.cold[label].median / self.cold[base].median
        return None

    def to_json(self) -> dict[str, object]:
        def times(by_label: dict[str, Timing]) -> dict[str, object]:
            moved = self.timed.bytes_moved
            return {k: t.to_json() | {"gb_per_s": round(moved / t.median / 1e3, 1)} for k, t in by_label.items()}

        return {
            "case": dataclasses.asdict(self.timed.case),
            "dtype": self.timed.dtype,
            "channels_last": self.timed.channels_last,
            "bytes_moved": self.timed.bytes_moved,
            "plan": self.plan,
            "l2_cold": times(self.cold),
            "l2_warm": times(self.warm),
            "l2_was_cold": self.is_cold,
            "relative_error": self.errors,
            "refused": self.refused,
        }


def run_case(
    kernels: RawKernels,
    limits: Limits,
    timed: Timed,
    plan: str,
    *,
    with_compile: bool,
    library: pathlib.Path | None,
    runtime: bool,
) -> Result:
    """Time our kernel and its rivals on one case."""
    tensors = Tensors(timed, limits.l2_bytes)
    result = Result(timed, {}, {}, {}, {}, tensors.cold, plan)
    truth = cuda_timing.truth(timed, tensors)
    ours = cuda_timing.ours(kernels, limits, timed, tensors)
    contenders: dict[str, Callable[[Any, Any], Any]] = {OURS: ours, EAGER: _eager(timed, tensors)}
    if with_compile:
        contenders[COMPILED] = _compiled(timed, tensors)
    for label, function in contenders.items():
        _attempt(result, label, functools.partial(_time, result, label, function, tensors, truth))
    _attempt(result, COPY, lambda: _time_copy(result, tensors))
    for kind in RUNTIME if runtime else ():
        _attempt(result, kind, functools.partial(_time_runtime, result, kind, tensors, truth, limits, library))
    _not_worse_than_torch(result)
    return result


def _attempt(result: Result, label: str, run: Callable[[], None]) -> None:
    # Whatever fails in a rival's code must not cost the times of all others.
    try:
        run()
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        result.refused[label] = lines[0][:200]


def _eager(timed: Timed, tensors: Tensors) -> Callable[[Any, Any], Any]:
    return lambda x, _: cuda_timing.torch_group_norm(timed, x, tensors.scale, tensors.bias)


def _compiled(timed: Timed, tensors: Tensors) -> Callable[[Any, Any], Any]:
    import torch

    compiled = torch.compile(lambda x: cuda_timing.torch_group_norm(timed, x, tensors.scale, tensors.bias), dynamic=False)
    return lambda x, _: compiled(x)


def _time_copy(result: Result, tensors: Tensors) -> None:
    result.cold[COPY] = cuda_timing.graph_time(COPY, tensors.calls(cuda_timing.copy))
    result.warm[COPY] = cuda_timing.graph_time(COPY, tensors.calls(cuda_timing.copy, warm=True))


def _time(result: Result, label: str, function: Callable[[Any, Any], Any], tensors: Tensors, truth: Any) -> None:
    import torch

    returned = function(tensors.xs[0], tensors.ys[0])
    torch.cuda.synchronize()
    result.errors[label] = _error(tensors.ys[0] if returned is None else returned, truth)
    result.cold[label] = cuda_timing.graph_time(label, tensors.calls(function))
    result.warm[label] = cuda_timing.graph_time(label, tensors.calls(function, warm=True))


def _error(y: Any, truth: Any) -> float:
    return float((y.double() - truth).abs().max() / truth.abs().max())


def _not_worse_than_torch(result: Result) -> None:
    """A time whose result is wrong is no time: ours is held to PyTorch's own error, rivals to a hundred times it."""
    floor = max(_ERROR_FLOOR[result.timed.dtype], result.errors.get(EAGER, 0.0))
    for label, error in result.errors.items():
        allowed = floor * 1.01 if label in (OURS, cuda_models.OURS) else floor * 100
        if not error <= allowed:  # also when it is not a number
            result.refused[label] = f"off by {error:.1e}, allowed {allowed:.1e}"
            result.cold.pop(label, None)
            result.warm.pop(label, None)


def _time_runtime(
    result: Result, kind: str, tensors: Tensors, truth: Any, limits: Limits, library: pathlib.Path | None
) -> None:
    """ONNX Runtime with IO binding and CUDA graphs, on a stream of its own, without waiting after each run."""
    timed = result.timed
    copies = min(max(math.ceil(3 * limits.l2_bytes / timed.bytes_moved), 4), 32, len(tensors.xs))
    scale, bias = (tensor.float().cpu().numpy() for tensor in (tensors.scale, tensors.bias))
    model = cuda_models.make(kind, timed.case, timed.dtype, copies, scale, bias)
    if model is None:
        result.refused[kind] = "cannot express this case"
        return
    if kind == cuda_models.OURS and library is None:
        result.refused[kind] = "the operator library is not built"
        return
    session = cuda_sessions.BoundSession(
        model.SerializeToString(),
        library=library if kind == cuda_models.OURS else None,
        inputs={f"x{i}": tensors.xs[i] for i in range(copies)},
        outputs={f"y{i}": tensors.ys[i] for i in range(copies)},
    )
    tensors.ys[0].fill_(float("nan"))
    session.warm_up()
    result.errors[kind] = _error(tensors.ys[0], truth)
    result.cold[kind] = session.time(kind, copies)
