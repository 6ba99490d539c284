"""Fixed features: functions of one image, learned from nobody's data, so they cost no privacy.

Under differential privacy a linear model on good fixed features beats a network that has to
learn them through the noise (Tramer and Boneh 2021, arXiv:2011.11660).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

# Images at a time: few enough that what is in between stays in the caches, and that malloc
# gives the same pages again in place of new ones (five times as fast as 600 at a time).
_TOGETHER = 32


class Kept:
    """Features of a data set's images, made when they are first asked for and kept.

    An image's features depend on it alone, so every run of a process can use the same ones,
    whichever client has the image.

    Args:
        images: shape [n, ...].
        make: the features of some of them, float32.
    """

    def __init__(self, images: Tensor, make: Callable[[Tensor], Tensor]) -> None:
        self._images, self._make = images, make
        # Memory is taken as it is written to.
        self._made = torch.empty(len(images), *make(images[:1]).shape[1:])
        self._there = torch.zeros(len(images), dtype=torch.bool)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """A copy of the features of the images ``rows``."""
        missing = rows[~self._there[rows]]
        if len(missing) > 0:
            self._made[missing] = self._make(self._images[missing])
            self._there[missing] = True
        return self._made.index_select(0, rows)


def gradients(images: Tensor) -> Tensor:
    """Histograms of oriented gradients of 8x8 images (after Dalal and Triggs 2005).

    Args:
        images: shape [n, 64], values in [0, 1].

    Returns:
        Shape [n, 128]: 8 orientations in each of 16 cells, centred, of L2 norm 2.
    """
    padded = functional.pad(images.reshape(-1, 8, 8), (1, 1, 1, 1))
    x = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    y = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    angles = 2 * math.pi * torch.arange(8) / 8
    along = x[..., None] * torch.cos(angles) + y[..., None] * torch.sin(angles)
    cells = along.clamp(min=0).reshape(-1, 4, 2, 4, 2, 8).mean((2, 4)).flatten(1)
    unit = _unit(cells.sqrt())
    return 2 * _unit(unit - unit.mean(1, keepdim=True))


def _unit(rows: Tensor) -> Tensor:
    return functional.normalize(rows, dim=1, eps=1e-6)


def gabor(images: Tensor) -> Tensor:
    """Amplitudes of 16 Gabor filters, pooled, of 28x28 images.

    Args:
        images: shape [n, 1, 28, 28], values in [0, 1].

    Returns:
        Shape [n, 16, 7, 7], normalised per channel within each image, of L2 norm 1.
    """
    parts = [_gabor(part) for part in torch.split(images, _TOGETHER)]
    return torch.cat(parts) if parts else torch.zeros(0, 16, 7, 7)


def _gabor(images: Tensor) -> Tensor:
    # In place: what is in between is 32 times as large as the images.
    response = functional.conv2d(images, _bank(), padding=3).square_()
    amplitude = (response[:, 0::2] + response[:, 1::2]).add_(1e-8).sqrt_()
    pooled = functional.group_norm(functional.avg_pool2d(amplitude, 4).sqrt_(), 16)
    return functional.normalize(pooled.flatten(1), dim=1, eps=1e-5).reshape(-1, 16, 7, 7)


@functools.lru_cache(maxsize=1)
def _bank(size: int = 7) -> Tensor:
    """Two scales by eight orientations, even and odd phase: shape [32, 1, size, size]."""
    centred = torch.arange(size).float() - size // 2
    y, x = torch.meshgrid(centred, centred, indexing="ij")
    filters = []
    for frequency, width in ((0.25, 1.6), (0.12, 2.8)):
        envelope = torch.exp(-(x**2 + y**2) / (2 * width**2))
        for k in range(8):
            along = x * math.cos(math.pi * k / 8) + y * math.sin(math.pi * k / 8)
            for phase in (0.0, math.pi / 2):
                wave = envelope * torch.cos(2 * math.pi * frequency * along + phase)
                # No response to a flat patch.
                wave = wave - envelope * (wave.sum() / envelope.sum())
                filters.append(wave / wave.abs().sum())
    return torch.stack(filters)[:, None]
