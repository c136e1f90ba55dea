"""The shapes that GroupNorm has in real networks, labelled in words: for tests, parity and benchmarks.

To add a case, add a line. Imports: standard library only.
"""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Case:
    """One GroupNorm of a network, x: [batch, channels, *spatial], float32."""

    label: str
    batch: int
    channels: int
    spatial: tuple[int, ...]
    num_groups: int = 32
    activation: str = "none"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels, *self.spatial)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes_moved(self) -> int:
        """What any implementation has to move: x read once, y written once, float32."""
        return 2 * 4 * self.elements


CASES = (
    Case("FCOS / RetinaNet head, P3", 1, 256, (100, 100), activation="relu"),
    Case("FCOS / RetinaNet head, P4", 1, 256, (50, 50), activation="relu"),
    Case("FCOS / RetinaNet head, P5", 1, 256, (25, 25), activation="relu"),
    Case("FCOS / RetinaNet head, P6", 1, 256, (13, 13), activation="relu"),
    Case("FCOS / RetinaNet head, P7", 1, 256, (7, 7), activation="relu"),
    Case("Mask R-CNN GN box head, 64 regions", 64, 256, (7, 7), activation="relu"),
    Case("Mask R-CNN GN mask head, 16 regions", 16, 256, (14, 14), activation="relu"),
    Case("Deformable DETR input projection", 1, 256, (100, 134)),
    Case("Mask2Former pixel decoder, 1/4", 1, 256, (200, 200)),
    Case("ResNet-50 GN, first block", 1, 64, (112, 112), activation="relu"),
    Case("ResNet-50 GN, last block", 1, 2048, (7, 7), activation="relu"),
    Case("SegResNet 3-D, full resolution", 1, 8, (64, 64, 64), 8, "relu"),
    Case("SegResNet 3-D, 1/4", 1, 32, (16, 16, 16), 8, "relu"),
    Case("Stable Diffusion UNet, 64 x 64", 2, 320, (64, 64), activation="silu"),
    Case("Stable Diffusion UNet, 16 x 16", 2, 1280, (16, 16), activation="silu"),
    Case("Stable Diffusion UNet, 8 x 8", 2, 1280, (8, 8), activation="silu"),
    Case("Stable Diffusion VAE, 256 x 256", 1, 256, (256, 256), activation="silu"),
    Case("wav2vec 2.0 feature extractor", 1, 512, (3199,), 512),
    Case("one group: LayerNorm over a map", 1, 256, (50, 50), 1),
    Case("channels that no vector divides", 3, 30, (17, 19), 6),
)
