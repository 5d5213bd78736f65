"""NICE (Dinh, Krueger & Bengio 2015, arXiv:1410.8516): additive couplings, then one learned scale per dimension.

A composition of Real NVP's blocks: its checkerboard couplings without scales and without batch normalization, around
its residual networks in place of the paper's dense ones, so that images of any size are taken.
"""

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from flowbench.config.registry import density_models
from flowbench.densities.bijection import Bijection, Compose
from flowbench.densities.flows.coupling import CheckerboardCoupling
from flowbench.densities.flows.resnet import ResidualNet
from flowbench.densities.model import FlowConfig

__all__ = ["DiagonalScaling", "NICEConfig"]


@density_models.register("nice")
class NICEConfig(FlowConfig):
    """The `model:` section of NICE."""

    name: Literal["nice"] = "nice"
    couplings: PositiveInt = 4
    """Additive couplings; which pixels are passed alternates (the paper has four)."""
    residual_blocks: PositiveInt = 2
    """Residual blocks of each coupling's network."""
    features: PositiveInt = 64
    """Width of the networks."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability in the residual blocks; not in the paper."""

    def flow(self, image_shape: tuple[int, int, int]) -> Compose:
        """Return the untrained flow for images of (channels, height, width)."""
        channels, height, width = image_shape
        net = partial(
            ResidualNet, blocks=self.residual_blocks, features=self.features, batch_norm=False, dropout=self.dropout
        )
        couplings = [
            CheckerboardCoupling(channels, (height, width), number % 2, net, affine=False, batch_norm=False)
            for number in range(self.couplings)
        ]
        return Compose([*couplings, DiagonalScaling(image_shape)])


class DiagonalScaling(Bijection):
    """z = x · exp(s), with a learned s for every dimension, 0 at first (section 3.3 of the paper).

    Args:
        image_shape: (channels, height, width).
    """

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(image_shape))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale x, (batch, channels, height, width); the log-determinant is Σ s."""
        return x * self.s.exp(), self.s.sum().expand(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return z · exp(−s)."""
        return z * torch.exp(-self.s), -self.s.sum().expand(z.shape[0])
