"""Random x for one GroupNorm, whose groups are of the three kinds that tell normalisations apart."""

from __future__ import annotations

import math

import numpy as np


def random_groups(
    shape: tuple[int, ...],
    num_groups: int,
    epsilon: float,
    rng: np.random.Generator,
    *,
    first_kind: int = 0,
    channels_last: bool = False,
) -> np.ndarray:
    """Random x whose groups are in turn ordinary, nearly constant and far from zero.

    Args:
        shape: [N, C, *spatial], or [N, *spatial, C] when `channels_last`.
        num_groups: Where it does not divide C, every channel is a group.
        epsilon: The nearly constant groups have a standard deviation of 0.3 to 3 times its root.
        rng: Where the numbers come from.
        first_kind: Kind of the first group.
        channels_last: Where the channel axis lies.

    Returns:
        float64. Channels of a group differ in their means, so that a group of other channels is noticed.
    """
    planar = (shape[0], shape[-1], *shape[1:-1]) if channels_last else shape
    channels = planar[1] if len(planar) > 1 else 1
    if num_groups < 1 or channels % num_groups:
        num_groups = channels
    x = rng.standard_normal(planar)
    if len(planar) > 1:
        x += rng.standard_normal((planar[0], channels, *(1,) * (len(planar) - 2))) * 0.5
    view = x.reshape(planar[0] * num_groups, -1)
    kind = (np.arange(view.shape[0]) + first_kind) % 3
    small = math.sqrt(max(epsilon, 1e-12))
    std = np.where(kind == 1, small * rng.uniform(0.3, 3, kind.shape), 1.0)
    mean = np.select([kind == 1, kind == 2], [0.01, 1e4], rng.standard_normal(kind.shape))
    view *= std[:, None]
    view += mean[:, None]
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if channels_last else x
