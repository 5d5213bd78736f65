"""Squeezes: reshape 2x2 cells of pixels into channels, (batch, C, H, W) ↔ (batch, 4C, H/2, W/2); log-determinant 0.

Dinh et al. 2017 (arXiv:1605.08803), section 3.6; the orders are those of the authors' code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbench.densities.bijection import Bijection

__all__ = ["OrderedSqueeze", "Squeeze", "cells_of", "pixels_of"]


def cells_of(x: Tensor) -> Tensor:
    """Return `pixel_unshuffle(x, 2)`, (batch, 4C, H/2, W/2), where that gives an empty batch back as it is, too."""
    batch, channels, height, width = x.shape
    return F.pixel_unshuffle(x, 2) if batch else x.reshape(0, 4 * channels, height // 2, width // 2)


def pixels_of(z: Tensor) -> Tensor:
    """Undo `cells_of`."""
    batch, channels, height, width = z.shape
    return F.pixel_shuffle(z, 2) if batch else z.reshape(0, channels // 4, 2 * height, 2 * width)


class Squeeze(Bijection):
    """Plain squeeze: output channel 4c + 2h + w holds channel c of the pixels at (h, w) in their 2x2 cell."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reshape x, (batch, C, H, W) with even H and W, to (batch, 4C, H/2, W/2)."""
        return cells_of(x), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Reshape z, (batch, 4C, H/2, W/2), to (batch, C, H, W)."""
        return pixels_of(z), z.new_zeros(z.shape[0])


class OrderedSqueeze(Bijection):
    """Squeeze before a factor-out: output channel kC + c, where k = 0..3 stands for (0,0), (1,1), (0,1), (1,0).

    The first half of the channels is thus the diagonal of every cell: an image of half as many pixels.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reshape x, (batch, C, H, W) with even H and W, to (batch, 4C, H/2, W/2)."""
        cells = [x[..., h::2, w::2] for h, w in ((0, 0), (1, 1), (0, 1), (1, 0))]
        return torch.cat(cells, dim=1), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Reshape z, (batch, 4C, H/2, W/2), to (batch, C, H, W)."""
        at_00, at_11, at_01, at_10 = z.chunk(4, dim=1)
        plain = torch.stack((at_00, at_01, at_10, at_11), dim=2).flatten(1, 2)
        return pixels_of(plain), z.new_zeros(z.shape[0])
