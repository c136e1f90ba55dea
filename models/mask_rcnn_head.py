"""Mask R-CNN's heads with GroupNorm (Wu and He, arXiv 1803.08494) behind a feature pyramid, in plain torch.

A pyramid with GroupNorm over given backbone features; regions of 14 x 14 cut from its finest level, with the mean of
all levels added; a box head of four convolutions with GN(32), and a mask head of four with GN(32) and a deconvolution.
Batch and regions share an axis there: [N * regions, C, H, W].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from models.fcos import FeaturePyramid, conv_gn
from models.weights import randomise

INPUTS = ("c3", "c4", "c5")
OUTPUTS = ("scores", "boxes", "masks")
AXES = {name: {0: "batch"} for name in INPUTS}
LIBRARIES = ()

CLASSES = 10
CHANNELS = (64, 128, 256)
WIDTH = 128
CUTS = ((0, 0), (0, 12), (12, 0), (12, 12), (6, 6))
"""Upper left corners of the regions in cells of the finest level, fixed: RoIAlign is not what is tried here."""

REGION = 14


def tower(width: int, depth: int = 4) -> nn.Sequential:
    return nn.Sequential(*(layer for _ in range(depth) for layer in (*conv_gn(width, width, 3), nn.ReLU())))


class MaskRcnnHead(nn.Module):
    """Three backbone features to class scores, boxes and masks of every region."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(CHANNELS, WIDTH)
        self.box_tower = tower(WIDTH)
        self.hidden = nn.Linear(WIDTH * 49, 256)
        self.scores = nn.Linear(256, CLASSES + 1)
        self.boxes = nn.Linear(256, 4 * CLASSES)
        self.mask_tower = tower(WIDTH)
        self.upsample = nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2)
        self.masks = nn.Conv2d(WIDTH, CLASSES, 1)

    def forward(
        self, c3: torch.Tensor, c4: torch.Tensor, c5: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        levels = self.pyramid([c3, c4, c5])
        context = sum(level.mean((2, 3), keepdim=True) for level in levels)
        cuts = [levels[0][:, :, y : y + REGION, x : x + REGION] + context for y, x in CUTS]
        regions = torch.stack(cuts, 1).flatten(0, 1)
        hidden = F.relu(self.hidden(self.box_tower(F.avg_pool2d(regions, 2)).flatten(1)))
        masks = self.masks(F.relu(self.upsample(self.mask_tower(regions))))
        return self.scores(hidden), self.boxes(hidden), masks


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The heads and features of two 208 x 208 images, both seeded."""
    generator = torch.Generator().manual_seed(1)
    sides = (26, 13, 7)
    features = tuple(torch.randn(2, c, s, s, generator=generator).relu() for c, s in zip(CHANNELS, sides, strict=True))
    return randomise(MaskRcnnHead()), features
