"""Other normalisations between two GroupNorms: whatever an exporter makes of them, they are not GroupNorms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from models.weights import randomise

INPUTS = ("image",)
OUTPUTS = ("features",)
AXES = {"image": {0: "batch"}}
LIBRARIES = ()

WIDTH = 16


class ChannelsFirstLayerNorm(nn.Module):
    """ConvNeXt's: over the channels of each position, [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).square().mean(1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-6) * self.weight[:, None, None] + self.bias[:, None, None]


class Decoys(nn.Module):
    """Convolutions with InstanceNorm, LayerNorm of two kinds, BatchNorm and RMS norm, GroupNorm first and last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.GroupNorm(4, WIDTH), nn.SiLU())
        self.others = nn.ModuleList(
            [
                nn.InstanceNorm2d(WIDTH, affine=True),
                nn.InstanceNorm2d(WIDTH),
                ChannelsFirstLayerNorm(WIDTH),
                nn.BatchNorm2d(WIDTH),
            ]
        )
        self.convolutions = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in self.others)
        self.tokens = nn.LayerNorm(WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.last = nn.GroupNorm(8, WIDTH)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        for convolution, norm in zip(self.convolutions, self.others, strict=True):
            x = x + F.relu(norm(convolution(x)))
        tokens = self.tokens(x.flatten(2).transpose(1, 2))
        tokens = tokens * torch.rsqrt(tokens.square().mean(-1, keepdim=True) + 1e-6) * self.scale
        return self.last(x + tokens.transpose(1, 2).reshape(x.shape))


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Sixteen channels, two 24 x 24 images."""
    return randomise(Decoys()), (torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1)),)
