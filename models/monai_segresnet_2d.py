"""MONAI's SegResNet in two dimensions: residual blocks with GroupNorm before each convolution."""

from __future__ import annotations

import torch
from torch import nn

from models.weights import randomise

INPUTS = ("image",)
OUTPUTS = ("mask",)
AXES = {"image": {0: "batch"}}
LIBRARIES = ("monai",)


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """16 filters at the finest level, two 64 x 64 images."""
    from monai.networks.nets import SegResNet

    model = SegResNet(spatial_dims=2, init_filters=16, in_channels=3, out_channels=2, norm=("GROUP", {"num_groups": 8}))
    return randomise(model), (torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)),)
