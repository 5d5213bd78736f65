"""Base distributions: what the latents of a flow are taken to follow."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["Base", "StandardNormal", "Uniform", "standard_normal_log_prob"]


class Base(nn.Module, ABC):
    """A distribution of latents, one point per image."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of z, (batch, …), in nats, (batch,)."""

    @abstractmethod
    def sample(
        self, shape: tuple[int, ...], temperature: float, generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """Return float32 latents of `shape` (n, …) on `device`, from the density p^(1/temperature²), normalized."""

    @abstractmethod
    def whiten(self, z: Tensor) -> Tensor:
        """Return what is N(0, 1) in every dimension where z follows this distribution; of z's shape."""

    @abstractmethod
    def color(self, white: Tensor) -> Tensor:
        """Undo `whiten`: latents that follow this distribution where `white` is N(0, 1) in every dimension."""


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Return −½ Σ (z² + log 2π), (batch,)."""
    return -0.5 * (z * z + math.log(2 * math.pi)).flatten(1).sum(1)


class StandardNormal(Base):
    """z ~ N(0, 1) in every dimension; the temperature scales z (Kingma & Dhariwal 2018, section 6)."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Return −½ Σ (z² + log 2π), (batch,)."""
        return standard_normal_log_prob(z)

    def sample(
        self, shape: tuple[int, ...], temperature: float, generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """Return temperature · N(0, 1)."""
        where = device if generator is None else generator.device
        return temperature * torch.randn(shape, generator=generator, device=where).to(device)

    def whiten(self, z: Tensor) -> Tensor:
        """Return z itself."""
        return z

    def color(self, white: Tensor) -> Tensor:
        """Return the white latents themselves."""
        return white


class Uniform(Base):
    """z ~ U[0, 1) in every dimension; it is its own tempered version, whatever the temperature."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Return 0 inside the cube and −∞ outside, (batch,)."""
        # The edge 1 counts as inside: in float32, 255 + u rounds to 256 for the largest u below 1.
        inside = ((z >= 0) & (z <= 1)).flatten(1).all(1)
        return torch.where(inside, 0.0, -torch.inf).to(z.dtype)

    def sample(
        self, shape: tuple[int, ...], temperature: float, generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """Return U[0, 1)."""
        where = device if generator is None else generator.device
        return torch.rand(shape, generator=generator, device=where).to(device)

    def whiten(self, z: Tensor) -> Tensor:
        """Return Φ⁻¹(z), Φ being the standard normal's distribution function."""
        white: Tensor = torch.special.ndtri(z)
        return white

    def color(self, white: Tensor) -> Tensor:
        """Return Φ(white)."""
        z: Tensor = torch.special.ndtr(white)
        return z
