"""transformers' Deformable DETR: GN(32) on every feature level that goes into the encoder."""

from __future__ import annotations

import torch
from torch import nn

from models import torchvision_schemas
from models.weights import randomise

INPUTS = ("pixel_values",)
OUTPUTS = ("logits", "boxes")
AXES = {"pixel_values": {0: "batch"}}
LIBRARIES = ("transformers",)


class Detector(nn.Module):
    """Tensors in, tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.model(pixel_values=pixel_values)
        return outputs.logits, outputs.pred_boxes


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Small ResNet, two encoder and two decoder layers, 20 queries, two 128 x 128 images."""
    torchvision_schemas.register()
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = DeformableDetrConfig(
        use_timm_backbone=False, backbone_config=backbone, use_pretrained_backbone=False, backbone=None, d_model=64,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128,
        decoder_ffn_dim=128, num_queries=20, num_labels=7,
    )  # fmt: skip
    model = randomise(Detector(DeformableDetrForObjectDetection(config)))
    return model, (torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)),)
