"""diffusers' UNet2DModel: GroupNorm and SiLU in every residual block, GroupNorm before attention."""

from __future__ import annotations

import torch
from torch import nn

from models import torchvision_schemas
from models.weights import randomise

INPUTS = ("sample", "timestep")
OUTPUTS = ("noise",)
AXES = {"sample": {0: "batch"}}
LIBRARIES = ("diffusers",)


class Denoiser(nn.Module):
    """Tensors in, tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.model(sample, timestep, return_dict=False)[0]


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Two levels of 32 and 64 channels, two 32 x 32 samples."""
    torchvision_schemas.register()
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=32, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )  # fmt: skip
    sample = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return randomise(Denoiser(model)), (sample, torch.tensor(10))
