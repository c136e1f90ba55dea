"""An FCOS-style detector (Tian et al., arXiv 1904.01355) with GroupNorm throughout.

ResNet-50 with GroupNorm bottlenecks (Wu and He, arXiv 1803.08494), a feature pyramid of five levels with GroupNorm,
and towers of four convolutions with GN(32) shared by all levels, width 256, on a 320 x 320 image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from models.weights import randomise

INPUTS = ("image",)
OUTPUTS = ("scores", "boxes", "centreness")
AXES = {"image": {0: "batch"}}
LIBRARIES = ()

GROUPS = 32
STRIDES = (8, 16, 32, 64, 128)
CLASSES = 20


def conv_gn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, then GroupNorm."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, outputs))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.reduce = conv_gn(inputs, width, 1)
        self.spatial = conv_gn(width, width, 3, stride)
        self.expand = conv_gn(width, outputs, 1)
        self.shortcut = conv_gn(inputs, outputs, 1, stride) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.reduce(x))
        y = F.relu(self.spatial(y))
        return F.relu(self.expand(y) + self.shortcut(x))


class Backbone(nn.Module):
    """ResNet; returns the features at strides 8, 16 and 32."""

    def __init__(self, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = conv_gn(3, 64, 7, 2)
        stages, channels = [], 64
        for index, depth in enumerate(depths):
            width = 64 * 2**index
            blocks = [Bottleneck(channels, width, 1 if index == 0 else 2)]
            channels = 4 * width
            blocks += [Bottleneck(channels, width, 1) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        x = F.max_pool2d(F.relu(self.stem(image)), 3, 2, 1)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[1:]


class FeaturePyramid(nn.Module):
    """Features of one width at strides 8 to 128."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_gn(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(conv_gn(width, width, 3) for _ in channels)
        self.down = nn.ModuleList(conv_gn(width, width, 3, 2) for _ in range(2))

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        merged = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for index in (1, 0):
            merged[index] = merged[index] + F.interpolate(merged[index + 1], size=merged[index].shape[-2:], mode="nearest")
        levels = [smooth(x) for smooth, x in zip(self.smooth, merged, strict=True)]
        for down in self.down:
            levels.append(down(F.relu(levels[-1])))
        return levels


class Head(nn.Module):
    """Class scores, boxes and centre-ness of every position; weights are shared by the levels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.class_tower = nn.Sequential(*(layer for _ in range(4) for layer in (*conv_gn(width, width, 3), nn.ReLU())))
        self.box_tower = nn.Sequential(*(layer for _ in range(4) for layer in (*conv_gn(width, width, 3), nn.ReLU())))
        self.scores = nn.Conv2d(width, CLASSES, 3, padding=1)
        self.boxes = nn.Conv2d(width, 4, 3, padding=1)
        self.centreness = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(STRIDES), 1))

    def forward(self, levels: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Levels of [N, C, H, W] to [N, positions, classes], [N, positions, 4] and [N, positions, 1]."""
        outputs: tuple[list[torch.Tensor], ...] = ([], [], [])
        for level, stride, scale in zip(levels, STRIDES, self.scales, strict=True):
            box_features = self.box_tower(level)
            outputs[0].append(_positions(self.scores(self.class_tower(level))))
            outputs[1].append(_positions(F.softplus(self.boxes(box_features) * scale) * stride))
            outputs[2].append(_positions(self.centreness(box_features)))
        scores, boxes, centreness = (torch.cat(parts, 1) for parts in outputs)
        return scores, boxes, centreness


def _positions(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


class Fcos(nn.Module):
    """Image [N, 3, H, W] to class logits, distances to the four sides of the box, and centre-ness logits."""

    def __init__(self, depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 256) -> None:
        super().__init__()
        self.backbone = Backbone(depths)
        self.pyramid = FeaturePyramid((512, 1024, 2048), width)
        self.head = Head(width)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.head(self.pyramid(self.backbone(image)))


def build(size: int = 320) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The detector and an image, both seeded."""
    model = randomise(Fcos())
    return model, (torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)),)
