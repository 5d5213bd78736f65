"""Activation normalization: a scale and a shift per channel that start from the first batch's statistics."""

import torch
from torch import Tensor, nn

from flowbench.densities.bijection import Bijection
from flowbench.densities.flows.normalization import batch_moments
from flowbench.densities.initialization import DataInitialized

__all__ = ["LOG_SCALE_FACTOR", "ActNorm"]

LOG_SCALE_FACTOR = 3.0
"""The authors' code learns log-scales divided by 3: they move three times as fast."""


class ActNorm(DataInitialized, Bijection):
    """y = (x + b) · exp(3 logs), per channel (Kingma & Dhariwal 2018, section 3.1, as in the authors' code).

    The identity at first; inside `initializing`, a forward pass sets b and logs so that its output has mean 0 and
    standard deviation 1 in every channel over the batch (of all processes together).

    Args:
        channels: size of dimension 1 of x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(channels))
        self.logs = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x, (batch, channels, height, width); the log-determinant is height · width · Σ 3 logs."""
        if self.initializing:
            self._initialize(x)
        y = (x + _per_channel(self.b)) * torch.exp(LOG_SCALE_FACTOR * _per_channel(self.logs))
        return y, self.log_det(x)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return what x is multiplied with and what is then added, both (channels,)."""
        scale = torch.exp(LOG_SCALE_FACTOR * self.logs)
        return scale, self.b * scale

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return z · exp(−3 logs) − b."""
        x = z * torch.exp(-LOG_SCALE_FACTOR * _per_channel(self.logs)) - _per_channel(self.b)
        return x, -self.log_det(z)

    def log_det(self, x: Tensor) -> Tensor:
        """Return the log-determinant of `forward` at x, (batch,); it depends on the size of x alone."""
        places = x.shape[2] * x.shape[3]
        return (places * LOG_SCALE_FACTOR * self.logs.sum()).expand(x.shape[0])

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        mean, var = batch_moments(x.to(self.b.dtype))
        self.b.copy_(-mean)
        self.logs.copy_(-torch.log(var.sqrt() + 1e-6) / LOG_SCALE_FACTOR)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
