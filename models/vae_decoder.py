"""The decoder of diffusers' AutoencoderKL, latent to image: GroupNorm and SiLU throughout, the largest x of all."""

from __future__ import annotations

import torch
from torch import nn

from models import torchvision_schemas
from models.weights import randomise

INPUTS = ("latent",)
OUTPUTS = ("image",)
AXES = {"latent": {0: "batch"}}
LIBRARIES = ("diffusers",)


class Decoder(nn.Module):
    """Tensors in, tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.post_quant_conv = model.post_quant_conv

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(latent))


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Three levels of 32 to 128 channels, two 16 x 16 latents."""
    torchvision_schemas.register()
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(32, 64, 128), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, latent_channels=4, norm_num_groups=8,
    )  # fmt: skip
    return randomise(Decoder(model)), (torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1)),)
