"""timm's resnet50_gn: a classifier with GN(32) in place of every BatchNorm."""

from __future__ import annotations

import torch
from torch import nn

from models import torchvision_schemas
from models.weights import randomise

INPUTS = ("image",)
OUTPUTS = ("logits",)
AXES = {"image": {0: "batch"}}
LIBRARIES = ("timm", "torchvision")


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Full width and depth, two 64 x 64 images."""
    torchvision_schemas.register()
    import timm

    model = timm.create_model("resnet50_gn", num_classes=10)
    return randomise(model), (torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)),)
