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
from flowbench.densities.bases import Base, StandardNormal
from flowbench.densities.bijection import Bijection, Compose
from flowbench.densities.flow import Flow
from flowbench.densities.flow_density import FlowConfig
from flowbench.densities.flows.coupling import CheckerboardCoupling
from flowbench.densities.flows.resnet import ResidualNet
from flowbench.densities.flows.vectors import check_for_vectors, vector_couplings
from flowbench.errors import InputError

__all__ = ["NICE", "DiagonalScaling", "NICEConfig"]


@density_models.register("nice")
class NICEConfig(FlowConfig):
    """NICE (Dinh et al. 2015): additive couplings, then one learned scale per dimension."""

    name: Literal["nice"] = "nice"
    couplings: PositiveInt = 4
    """Additive couplings; which pixels are passed alternates (the paper has four)."""
    residual_blocks: PositiveInt = 2
    """Residual blocks of each coupling's network."""
    features: PositiveInt = 64
    """Width of the networks."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability in the residual blocks; not in the paper."""

    def flow(self, image_shape: tuple[int, int, int]) -> "NICE":
        """Return the untrained flow for images of (channels, height, width)."""
        return NICE(
            image_shape,
            couplings=self.couplings,
            residual_blocks=self.residual_blocks,
            features=self.features,
            dropout=self.dropout,
        )


class NICE(Flow, Compose):
    """The flow from images, or vectors, to latents of the same shape.

    Initial weights come from torch's global generator.

    Args:
        shape: (channels, height, width) of images, or d: the dimensions of vectors.
        couplings, features, dropout: see `NICEConfig`; dropout is for images.
        residual_blocks: of each coupling's network, for vectors its hidden layers; None: 2.
        mixing: of vectors: alternate (the halves take turns) or permute (each coupling's are drawn).

    Raises:
        InputError: vectors with settings of images, or the reverse.

    Examples:
        >>> import torch, flowbench as fb
        >>> flow = fb.NICE(3)
        >>> x, _ = flow.inverse(flow(torch.ones(1, 3))[0])
        >>> bool(torch.allclose(x, torch.ones(1, 3), atol=1e-5))
        True
    """

    def __init__(
        self,
        shape: tuple[int, int, int] | int,
        *,
        couplings: int = 4,
        residual_blocks: int | None = None,
        features: int = 64,
        dropout: float = 0.0,
        mixing: Literal["alternate", "permute"] = "alternate",
    ) -> None:
        parts: list[Bijection] = []
        if isinstance(shape, int):
            check_for_vectors(shape, dropout=dropout or None)
            input_shape: tuple[int, ...] = (shape,)
            parts += vector_couplings(
                shape, couplings=couplings, features=features, layers=residual_blocks, affine=False, mixing=mixing
            )
        else:
            if mixing != "alternate":
                raise InputError("mixing: is for flows of vectors")
            input_shape = shape
            blocks = 2 if residual_blocks is None else residual_blocks
            net = partial(ResidualNet, blocks=blocks, features=features, batch_norm=False, dropout=dropout)
            parts += [
                CheckerboardCoupling(shape[0], shape[1:], number % 2, net, affine=False, batch_norm=False)
                for number in range(couplings)
            ]
        super().__init__([*parts, DiagonalScaling(input_shape)])
        self.input_shape = input_shape
        self.base: Base = StandardNormal()


class DiagonalScaling(Bijection):
    """z = x · exp(s), with a learned s for every dimension, 0 at first (section 3.3 of the paper).

    Args:
        shape: of one x: (channels, height, width), or (d,).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale x, (batch, *shape); the log-determinant is Σ s."""
        return x * self.s.exp(), self.s.sum().expand(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return z · exp(−s)."""
        return z * torch.exp(-self.s), -self.s.sum().expand(z.shape[0])
