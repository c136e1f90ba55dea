"""MONAI's UNet with residual units and GroupNorm in place of its default InstanceNorm."""

from __future__ import annotations

import torch
from torch import nn

from models.weights import randomise

INPUTS = ("image",)
OUTPUTS = ("mask",)
AXES = {"image": {0: "batch"}}
LIBRARIES = ("monai",)


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Three levels, two 64 x 64 images."""
    from monai.networks.nets import UNet

    model = UNet(
        spatial_dims=2, in_channels=1, out_channels=4, channels=(16, 32, 64), strides=(2, 2), num_res_units=2,
        norm=("GROUP", {"num_groups": 4}),
    )  # fmt: skip
    return randomise(model), (torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1)),)
