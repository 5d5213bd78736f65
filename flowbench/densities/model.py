"""Density models of discrete images: every term of log p(image), counted once, in nats."""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, SupportsFloat, SupportsIndex

import torch
from torch import Tensor, nn

from flowbench.config.schema import ModelConfig
from flowbench.densities.initialization import initializing
from flowbench.densities.noise import Distribution
from flowbench.errors import InputError, WorkFailedError

__all__ = [
    "Bound",
    "DensityConfig",
    "DensityModel",
    "Elbo",
    "LatentDensity",
    "Terms",
]

ImageShape = tuple[int, int, int]
Bound = Literal["exact", "uniform", "elbo"]
"""What a figure is: the likelihood itself, or a bound by dequantization, or by an approximate posterior."""


class Terms(NamedTuple):
    """The summands of log p(image), each (batch,), in nats per image."""

    prior: Tensor
    """Log-density of the latents under the base; of the image itself where nothing is transformed."""
    log_det: Tensor
    """Log-determinant of the flow."""
    preprocessing: Tensor
    """Log-Jacobian of the logit; 0 without."""
    quantization: Tensor
    """−D log(levels): from the density on [0, 1]^D to that of integers plus noise."""

    @property
    def log_prob(self) -> Tensor:
        """The sum of all terms, (batch,)."""
        return self.prior + self.log_det + self.preprocessing + self.quantization


class Elbo(NamedTuple):
    """The summands of a lower bound of log p(image) at one draw z of a posterior, each (batch,), in nats per image."""

    reconstruction: Tensor
    """log p(image | z)."""
    divergence: Tensor
    """log p(z) − log q(z | image): in expectation minus the Kullback-Leibler divergence of the posterior."""

    @property
    def log_prob(self) -> Tensor:
        """The sum of both, (batch,): log of the importance weight p(image, z) / q(z | image)."""
        return self.reconstruction + self.divergence


class DensityModel(nn.Module, ABC):
    """A probability model of uint8 images with values 0 … levels − 1.

    Args:
        image_shape: (channels, height, width).
        levels: grey levels, 256 for 8-bit images.
    """

    dequantization: Literal["uniform", "none"] = "uniform"
    """uniform: log_prob is of image + noise, a lower bound in expectation (Theis et al. 2016); none: of the
    grey levels themselves."""
    noise: Distribution = "uniform"
    """Of the noise that `terms` takes."""
    summands: tuple[str, ...] = Terms._fields
    """Names of what `terms` returns."""
    tempered: bool = True
    """Whether `sample` knows other temperatures than 1."""

    def __init__(self, image_shape: ImageShape, levels: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.levels = levels

    @property
    def dimensions(self) -> int:
        """D, the number of values of an image."""
        return math.prod(self.image_shape)

    @property
    def bound(self) -> Bound:
        """What `terms` sum to: log p of the images, or a lower bound of it."""
        return "exact" if self.dequantization == "none" else "uniform"

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise that `terms` takes, of one image."""
        return self.image_shape

    @abstractmethod
    def terms(self, images: Tensor, noise: Tensor) -> Terms | Elbo:
        """Return the terms of log p; gradients flow. Nothing here waits for the device: values are not inspected.

        Args:
            images: uint8, (batch, channels, height, width), below `levels` (checked when data are opened).
            noise: of `noise`, (batch, *noise_shape); its dtype is that of the computation.
        """

    def terms_and_shares(self, images: Tensor, noise: Tensor) -> tuple[Terms | Elbo, dict[str, Tensor]]:
        """Return `terms`, and by name what part of them is an approximation that makes a bound of them, (batch,) each.

        The names are those of the bounds (`density_branch` of PixelCNN++); by default nothing is approximated.
        """
        return self.terms(images, noise), {}

    def training_terms(self, images: Tensor, noise: Tensor) -> tuple[Terms | Elbo, Tensor | None]:
        """Return the terms, and what a training adds to −mean log p, a scalar in nats per image (free bits, say).

        None: nothing. No figure holds it. Arguments as in `terms`.
        """
        return self.terms(images, noise), None

    @abstractmethod
    def sample(self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Return n images, uint8 (n, channels, height, width), from the model tempered to p^(1/temperature²).

        Args:
            n: 0 or more.
            temperature: finite, 0 or more; at 0 the most likely latents, or values, n times.
            generator: None: torch's global one.

        Raises:
            InputError: another n or temperature (`check_sampling`).
        """

    def log_prob(self, images: Tensor, *, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Return log p of discrete images in nats, (batch,): the mean over draws of noise.

        Args:
            images: uint8, (batch, channels, height, width).
            draws: of noise per image.
            generator: of the noise; None: torch's global one.

        Raises:
            TypeError: images are not uint8.
            InputError: their shape or their values are not the model's.
        """
        self.check_levels(images)
        self.check_draws(draws)
        where = images.device if generator is None else generator.device
        drawn = torch.randn if self.noise == "normal" else torch.rand
        draws = 1 if self.bound == "exact" else draws
        total = torch.zeros((), device=images.device)
        for _ in range(draws):
            noise = drawn((len(images), *self.noise_shape), generator=generator, device=where).to(images.device)
            total = total + self.terms(images, noise).log_prob
        return total / draws

    def bits_per_dim(self, images: Tensor, *, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Return −log p / (D log 2), (batch,); arguments as in `log_prob`."""
        return -self.log_prob(images, draws=draws, generator=generator) / (self.dimensions * math.log(2))

    def initialize(self, images: Tensor, noise: Tensor) -> None:
        """Set what depends on the first batch (actnorm); by default nothing does. Arguments as in `terms`."""

    def fit(self, images: Iterable[Tensor]) -> bool:
        """Fit in closed form to all training images, uint8 batches; return whether there is such a form."""
        return False

    def regularization(self) -> Tensor:
        """Return the sum of squares that `optim.scale_l2` weighs; 0 for models that name none."""
        # Where the model lies: a zero of the CPU's in a loss keeps a GPU from replaying its step as one graph.
        parameter = next(self.parameters(), None)
        return torch.zeros(()) if parameter is None else parameter.new_zeros(())

    def check_sampling(self, n: int, temperature: float) -> None:
        """Refuse a number of images or a temperature that `sample` cannot take (InputError)."""
        if isinstance(n, bool) or not isinstance(n, SupportsIndex) or operator.index(n) < 0:
            raise InputError(f"n is {n!r}: give the number of images, 0 or more")
        if not isinstance(temperature, SupportsFloat) or not 0 <= float(temperature) < math.inf:
            raise InputError(f"temperature is {temperature!r}: give a finite number, 0 or above")

    def check_samples(self, values: Tensor) -> None:
        """Refuse what samples are made of, (n, …), where it is not numbers (WorkFailedError); waits for the device."""
        broken = torch.isnan(values).flatten(1).any(1)
        if bool(broken.any()):
            raise WorkFailedError(
                f"{int(broken.sum())} of {len(values)} samples are not numbers: lower the temperature, or look at the "
                "training"
            )

    def check_draws(self, draws: int) -> None:
        """Refuse a number of draws that `log_prob` cannot take (InputError)."""
        if draws < 1:
            raise InputError(f"draws is {draws}: at least one is needed")

    def check_levels(self, images: Tensor) -> None:
        """Refuse what `check` refuses, and values that are not the model's (InputError); waits for the device."""
        self.check(images)
        if images.numel() and int(images.max()) >= self.levels:
            raise InputError(
                f"images reach {int(images.max())}, but the model has {self.levels} levels (0 … levels − 1)"
            )

    def check(self, images: Tensor) -> None:
        """Refuse images of another dtype (TypeError) or shape (InputError); costs no synchronization."""
        if images.dtype != torch.uint8:
            raise TypeError(
                f"images are {images.dtype}: give the uint8 grey levels themselves; noise and scaling are the model's"
            )
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            expected = ", ".join(map(str, self.image_shape))
            raise InputError(f"images have shape {tuple(images.shape)}, but the model takes (batch, {expected})")


class LatentDensity(DensityModel):
    """A density model with latents that are white, N(0, 1) in every dimension, under the model."""

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one image's latents."""

    @abstractmethod
    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return the white latents of images, (batch, *latent_shape), in evaluation mode; arguments as in `terms`."""

    @abstractmethod
    def decode(self, white: Tensor) -> tuple[Tensor, Tensor]:
        """Return what white latents stand for, in evaluation mode.

        Args:
            white: (batch, *latent_shape).

        Returns:
            uint8 images, (batch, channels, height, width), and which are not numbers, bool (batch,): those are white.
        """

    @abstractmethod
    def by_scale(self, latents: Tensor) -> list[Tensor]:
        """Return the parts of latents, finest scale first, (batch, channels, height, width) each."""

    @abstractmethod
    def from_scales(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the latents that `by_scale` takes apart into `parts`, as `decode` takes them."""

    @torch.no_grad()
    def initialize(self, images: Tensor, noise: Tensor) -> None:
        """Let the layers that take their values from data (actnorm) take them from these images, in one pass.

        Raises:
            InputError: there are none.
        """
        if not len(images):
            raise InputError("the first batch is empty: there is nothing to initialize from")
        with initializing(self):
            self.terms(images, noise)

    def _with_broken(self, images: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return images, made white where some of the values that they are of are not numbers, and which those are."""
        broken = torch.isnan(values).flatten(1).any(1)
        return images.masked_fill_(broken.view(-1, 1, 1, 1), self.levels - 1), broken


class DensityConfig(ModelConfig):
    """The `model:` section of a density experiment."""

    def build(self, image_shape: ImageShape, levels: int) -> DensityModel:
        """Return the untrained model; weights come from torch's global generator."""
        raise NotImplementedError
