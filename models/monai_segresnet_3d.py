"""MONAI's SegResNet in three dimensions: GroupNorm of rank 5."""

from __future__ import annotations

import torch
from torch import nn

from models.weights import randomise

INPUTS = ("volume",)
OUTPUTS = ("mask",)
AXES = {"volume": {0: "batch"}}
LIBRARIES = ("monai",)


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """8 filters at the finest level, two 24 x 32 x 32 volumes."""
    from monai.networks.nets import SegResNet

    model = SegResNet(spatial_dims=3, init_filters=8, in_channels=2, out_channels=2, norm=("GROUP", {"num_groups": 4}))
    return randomise(model), (torch.randn(2, 2, 24, 32, 32, generator=torch.Generator().manual_seed(1)),)
