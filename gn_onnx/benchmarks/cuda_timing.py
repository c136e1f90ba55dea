"""Times on a CUDA device: many launches in one CUDA graph, replayed between two events.

A graph takes the cost of launching out of the number, so that kernels are compared and not their callers. Each replay
holds many launches; a time is that of one launch. Cold: the launches go round so many buffers that the L2 cache holds
none of them when its turn comes. Warm: all use the same. Imports: torch inside functions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from gn_onnx.benchmarks.bench import Timing
from gn_onnx.benchmarks.cases import Case
from gn_onnx.benchmarks.cuda_raw import DTYPES, Limits, Pointers, RawKernels, make_problem

DEVICE = "cuda"
REPLAYS = 20
_MIN_LAUNCHES = 20
_MAX_LAUNCHES = 1024
_MAX_BYTES = 6 << 30
_COLD_L2S = 3
"""Bytes that the buffers take together, in sizes of the L2 cache."""


@dataclasses.dataclass(frozen=True)
class Timed:
    """A case in one type and layout; x: [N, C, *spatial], in memory as the layout says."""

    case: Case
    dtype: str
    channels_last: bool = False

    @property
    def label(self) -> str:
        return f"{self.case.label}{', NHWC' if self.channels_last else ''}{_SHORT[self.dtype]}"

    @property
    def tensor_bytes(self) -> int:
        return self.case.elements * DTYPES[self.dtype].itemsize

    @property
    def bytes_moved(self) -> int:
        """x read once and y written once."""
        return 2 * self.tensor_bytes


_SHORT = {"float16": "", "float32": ", float32", "bfloat16": ", bfloat16"}


class Tensors:
    """Enough inputs and outputs for one case to find the L2 cache cold.

    Attributes:
        xs: Inputs, random, each another.
        ys: Outputs.
        scale: [C].
        bias: [C].
        cold: Whether they are enough.
    """

    def __init__(self, timed: Timed, l2_bytes: int) -> None:
        import torch

        wanted = math.ceil(_COLD_L2S * l2_bytes / timed.bytes_moved)
        most = max(2, min(_MAX_LAUNCHES, _MAX_BYTES // timed.bytes_moved))
        sets = min(max(wanted, 2), most)
        self.cold = sets >= wanted
        dtype = getattr(torch, timed.dtype)
        layout = torch.channels_last if timed.channels_last else torch.contiguous_format
        generator = torch.Generator(DEVICE).manual_seed(0)

        def draw() -> Any:
            x = torch.randn(timed.case.shape, generator=generator, device=DEVICE, dtype=torch.float32)
            return x.to(dtype).to(memory_format=layout)

        self.xs = [draw() for _ in range(sets)]
        self.ys = [torch.full_like(x, float("nan")) for x in self.xs]
        channels = timed.case.channels
        self.scale = torch.rand(channels, generator=generator, device=DEVICE).add_(0.5).to(dtype)
        self.bias = torch.randn(channels, generator=generator, device=DEVICE).to(dtype)

    def calls(self, function: Callable[[Any, Any], Any], *, warm: bool = False) -> list[Callable[[], Any]]:
        """function(x, y) on buffer after buffer, or on the first alone."""
        if warm:
            return [functools.partial(function, self.xs[0], self.ys[0])] * _MIN_LAUNCHES
        rounds = math.ceil(_MIN_LAUNCHES / len(self.xs))
        pairs = list(zip(self.xs, self.ys, strict=True)) * rounds
        return [functools.partial(function, x, y) for x, y in pairs]


def graph_time(label: str, calls: Sequence[Callable[[], Any]], *, replays: int = REPLAYS) -> Timing:
    """Microseconds of one call, for each replay of a graph that holds all calls."""
    import torch

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in (calls[0], calls[-1], calls[0]):
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        # Results are kept until the capture ends: memory that is given back at once would stay in the cache.
        kept = [call() for call in calls]
    del kept
    for _ in range(3):
        graph.replay()
    return event_time(label, graph.replay, len(calls), repeats=replays)


def event_time(label: str, run: Callable[[], Any], launches: int, *, repeats: int = REPLAYS) -> Timing:
    """Microseconds per launch of `run`, which enqueues `launches` of them on the current stream."""
    import torch

    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / launches)
    return Timing(label, tuple(times))


def ours(kernels: RawKernels, limits: Limits, timed: Timed, tensors: Tensors) -> Callable[[Any, Any], None]:
    """f(x, y) that enqueues our kernel on the current stream."""
    import torch

    case = timed.case
    problem = make_problem(
        (case.batch, case.channels, math.prod(case.spatial)),
        case.num_groups,
        timed.dtype,
        channels_last=timed.channels_last,
        activation=case.activation,
    )
    workspace = torch.empty(max(kernels.workspace_bytes(problem, limits), 16), dtype=torch.uint8, device=DEVICE)

    def run(x: Any, y: Any) -> None:
        pointers = Pointers(
            x.data_ptr(), tensors.scale.data_ptr(), tensors.bias.data_ptr(), y.data_ptr(), workspace.data_ptr()
        )
        kernels.group_norm(problem, limits, pointers, int(torch.cuda.current_stream().cuda_stream))

    return run


def copy(x: Any, y: Any) -> None:
    """The floor: the same bytes, moved by the device's own copy."""
    y.copy_(x)


def truth(timed: Timed, tensors: Tensors) -> Any:
    """The first input's result in float64."""
    return torch_group_norm(timed, tensors.xs[0].double(), tensors.scale.double(), tensors.bias.double())


def torch_group_norm(timed: Timed, x: Any, scale: Any, bias: Any) -> Any:
    """PyTorch's, with the activation as a call of its own."""
    from torch.nn import functional

    y = functional.group_norm(x, timed.case.num_groups, scale, bias, 1e-5)
    activations: dict[str, Callable[[Any], Any]] = {
        "none": lambda v: v,
        "relu": functional.relu,
        "silu": functional.silu,
        "hard_swish": functional.hardswish,
        "leaky_relu": lambda v: functional.leaky_relu(v, 0.1),
    }
    return activations[timed.case.activation](y)
