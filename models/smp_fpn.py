"""segmentation_models_pytorch's FPN: GroupNorm in the decoder's upsampling blocks, BatchNorm in the encoder."""

from __future__ import annotations

import torch
from torch import nn

from models import torchvision_schemas
from models.weights import randomise

INPUTS = ("image",)
OUTPUTS = ("mask",)
AXES = {"image": {0: "batch"}}
LIBRARIES = ("segmentation_models_pytorch", "timm", "torchvision")


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """ResNet-18 encoder, four classes, two 96 x 96 images."""
    torchvision_schemas.register()
    import segmentation_models_pytorch as smp

    model = smp.FPN(
        "resnet18", encoder_weights=None, decoder_pyramid_channels=64, decoder_segmentation_channels=64, classes=4
    )
    return randomise(model), (torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)),)
