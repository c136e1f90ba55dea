"""How many GroupNorms a PyTorch module really runs, whoever calls them: nn.GroupNorm, F.group_norm or a library's own.

All of them end in `aten::native_group_norm`, one call per node that a model must have after fusing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@dataclasses.dataclass(frozen=True)
class Call:
    """One GroupNorm: shape of x, groups, epsilon."""

    shape: tuple[int, ...]
    num_groups: int
    epsilon: float


class _Recorder(TorchDispatchMode):
    """Keeps every call; the one with index `change` has every other channel 5% larger than it should be."""

    def __init__(self, change: int | None = None) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._change = change

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.native_group_norm.default:
            x, _, _, _, _, _, num_groups, epsilon = args
            self.calls.append(Call(tuple(x.shape), num_groups, epsilon))
            if len(self.calls) - 1 == self._change:
                result, *statistics = function(*args, **(kwargs or {}))
                result[:, ::2] *= 1.05  # all channels alike would vanish in the next GroupNorm
                return (result, *statistics)
        return function(*args, **(kwargs or {}))


def group_norm_calls(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[Call]:
    """The GroupNorms of one run, in order."""
    with torch.no_grad(), _Recorder() as recorder:
        module(*inputs)
    return recorder.calls


def with_an_error(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], index: int) -> list[torch.Tensor]:
    """The module's outputs when the GroupNorm of this index is wrong by 5% in every other channel."""
    with torch.no_grad(), _Recorder(index):
        result = module(*inputs)
    return [result] if isinstance(result, torch.Tensor) else list(result)
