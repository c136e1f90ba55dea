"""transformers' MaskFormer: GN(32) in the pixel decoder, LayerNorm in its Swin backbone and transformer decoder."""

from __future__ import annotations

import torch
from torch import nn

from models import torchvision_schemas
from models.weights import randomise

INPUTS = ("pixel_values",)
OUTPUTS = ("classes", "masks")
AXES = {"pixel_values": {0: "batch"}}
LIBRARIES = ("transformers", "scipy")


class Segmenter(nn.Module):
    """Tensors in, tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.model(pixel_values=pixel_values)
        return outputs.class_queries_logits, outputs.masks_queries_logits


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Small Swin, two decoder layers, 10 queries, two 64 x 64 images."""
    torchvision_schemas.register()
    from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation, SwinConfig

    backbone = SwinConfig(
        image_size=64, patch_size=4, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 4, 4], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    decoder = DetrConfig(
        d_model=64, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=10,
    )  # fmt: skip
    config = MaskFormerConfig(
        backbone_config=backbone, decoder_config=decoder, fpn_feature_size=64, mask_feature_size=64, num_labels=5
    )
    model = randomise(Segmenter(MaskFormerForInstanceSegmentation(config)))
    return model, (torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)),)
