"""The CUDA kernels without ONNX Runtime: the library's C functions through ctypes, and memory to call them on.

The same interface serves a GPU (memory of PyTorch) and the emulated kernels (memory of numpy), so that what uses it
can be tried without a GPU. Imports: numpy, ml_dtypes; torch inside a function.
"""

from __future__ import annotations

import ctypes
import dataclasses
import pathlib
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from gn_onnx.errors import GnOnnxError

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
ACTIVATIONS = ("none", "relu", "silu", "hard_swish", "leaky_relu")
REGIMES = ("nothing", "warp", "registers", "shared", "split")


class Problem(ctypes.Structure):
    """gn::GroupNormProblem."""

    _fields_ = (
        ("batch", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("spatial", ctypes.c_int64),
        ("num_groups", ctypes.c_int64),
        ("epsilon", ctypes.c_double),
        ("dtype", ctypes.c_int32),
        ("layout", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("alpha", ctypes.c_float),
    )


class Limits(ctypes.Structure):
    """gn::DeviceLimits."""

    _fields_ = (
        ("compute_capability", ctypes.c_int32),
        ("multiprocessors", ctypes.c_int32),
        ("shared_memory_per_block_optin", ctypes.c_int64),
        ("l2_bytes", ctypes.c_int64),
        ("max_cluster_blocks", ctypes.c_int32),
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the launch plan chose; the fields are those of gn::cuda::LaunchPlan."""

    regime: str
    vector_elements: int
    vectors_per_thread: int
    threads: int
    parts: int
    blocks: int
    shared_bytes: int
    workspace_bytes: int


class RawKernels:
    """The C functions of the operator library.

    Raises:
        GnOnnxError: The library cannot be loaded or was built without CUDA.
    """

    def __init__(self, path: pathlib.Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
            self._library.gn_onnx_cuda_error.restype = ctypes.c_char_p
            self._library.gn_onnx_cuda_workspace_bytes.restype = ctypes.c_int64
            self._library.gn_onnx_cuda_plan.restype = None
        except OSError as error:
            raise GnOnnxError(f"{path}: cannot be loaded: {error}") from error
        except AttributeError as error:
            raise GnOnnxError(f"{path}: built without CUDA; build it again where nvcc is") from error

    def limits(self) -> Limits:
        """Of the current device."""
        limits = Limits()
        self._check(self._library.gn_onnx_cuda_limits(ctypes.byref(limits)), "ask for the device's limits")
        return limits

    def plan(self, problem: Problem, limits: Limits, *, aligned: bool = True) -> Plan:
        values = (ctypes.c_int64 * 8)()
        self._library.gn_onnx_cuda_plan(ctypes.byref(problem), ctypes.byref(limits), int(aligned), values)
        return Plan(REGIMES[values[0]], *values[1:])

    def workspace_bytes(self, problem: Problem, limits: Limits) -> int:
        return int(self._library.gn_onnx_cuda_workspace_bytes(ctypes.byref(problem), ctypes.byref(limits)))

    def group_norm(self, problem: Problem, limits: Limits, pointers: Pointers, stream: int) -> None:
        """Enqueue y = activation(GroupNorm(x)) on `stream`.

        Raises:
            GnOnnxError: A CUDA error.
        """
        arguments = map(ctypes.c_void_p, (*dataclasses.astuple(pointers), stream))
        error = self._library.gn_onnx_cuda_group_norm(ctypes.byref(problem), ctypes.byref(limits), *arguments)
        if error:  # no message is made where there is none to give: this is called in timed loops
            self._check(error, f"run GroupNorm {describe(problem)}")

    def empty(self, stream: int) -> None:
        """Enqueue a kernel that does nothing."""
        self._check(self._library.gn_onnx_cuda_empty(ctypes.c_void_p(stream)), "launch the empty kernel")

    def _check(self, error: int, doing: str) -> None:
        if error:
            raise GnOnnxError(f"cannot {doing}: CUDA error {error}, {self._library.gn_onnx_cuda_error(error).decode()}")


@dataclasses.dataclass(frozen=True)
class Pointers:
    """Addresses, in the order of the C function's arguments."""

    x: int
    scale: int
    bias: int
    y: int
    workspace: int


def make_problem(
    shape: tuple[int, int, int],
    num_groups: int,
    dtype: str,
    *,
    channels_last: bool = False,
    activation: str = "none",
    epsilon: float = 1e-5,
    alpha: float = 0.1,
) -> Problem:
    """shape: (N, C, spatial), whatever the layout."""
    types, names = tuple(DTYPES), ACTIVATIONS.index(activation)
    return Problem(*shape, num_groups, epsilon, types.index(dtype), int(channels_last), names, alpha)


def describe(problem: Problem) -> str:
    layout = "channels last" if problem.layout else "channels first"
    return (
        f"N={problem.batch} C={problem.channels} S={problem.spatial} G={problem.num_groups} "
        f"{tuple(DTYPES)[problem.dtype]} {layout} {ACTIVATIONS[problem.activation]}"
    )


_GUARD = 64
"""Bytes of poison kept on either side of a region."""
POISON = 0xFF
"""Every byte of an output before a run: NaN in every type."""


@dataclasses.dataclass(frozen=True)
class Region:
    """`size` bytes at `pointer`, in an allocation with poison on both sides."""

    pointer: int
    size: int
    start: int
    owner: Any


class Memory(Protocol):
    """Where the kernels' data lies."""

    def allocate(self, size: int, shift: int) -> Region:
        """Poisoned, beginning `shift` bytes after a multiple of 16."""
        ...

    def write(self, region: Region, data: np.ndarray[Any, Any]) -> None: ...

    def read(self, region: Region) -> np.ndarray[Any, Any]:
        """The bytes, after everything on the stream is done; raises GnOnnxError if the poison around was touched."""
        ...

    def stream(self) -> int: ...


def _split(whole: np.ndarray[Any, Any], region: Region) -> np.ndarray[Any, Any]:
    end = region.start + region.size
    if not ((whole[: region.start] == POISON).all() and (whole[end:] == POISON).all()):
        raise GnOnnxError("a kernel wrote outside its output")
    return whole[region.start : end]


class HostMemory:
    """For the emulated kernels."""

    def allocate(self, size: int, shift: int) -> Region:
        whole = np.full(size + 2 * _GUARD + 32, POISON, np.uint8)
        start = _GUARD + -(whole.ctypes.data + _GUARD) % 16 + shift
        return Region(whole.ctypes.data + start, size, start, whole)

    def write(self, region: Region, data: np.ndarray[Any, Any]) -> None:
        region.owner[region.start : region.start + region.size] = data

    def read(self, region: Region) -> np.ndarray[Any, Any]:
        return _split(region.owner, region).copy()

    def stream(self) -> int:
        return 0


class TorchMemory:
    """On the current CUDA device."""

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def allocate(self, size: int, shift: int) -> Region:
        whole = self._torch.full((size + 2 * _GUARD + 32,), POISON, dtype=self._torch.uint8, device="cuda")
        start = _GUARD + -(whole.data_ptr() + _GUARD) % 16 + shift
        return Region(whole.data_ptr() + start, size, start, whole)

    def write(self, region: Region, data: np.ndarray[Any, Any]) -> None:
        region.owner[region.start : region.start + region.size] = self._torch.from_numpy(data).cuda()

    def read(self, region: Region) -> np.ndarray[Any, Any]:
        self._torch.cuda.synchronize()
        return _split(region.owner.cpu().numpy(), region)

    def stream(self) -> int:
        return int(self._torch.cuda.current_stream().cuda_stream)
