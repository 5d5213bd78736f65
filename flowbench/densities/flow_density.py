"""Flows over dequantized images as density models: y of the image, z of y, and every term of log p(image)."""

import math
from collections.abc import Sequence
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor

from flowbench.densities.bases import Base, StandardNormal
from flowbench.densities.bijection import Bijection
from flowbench.densities.model import DensityConfig, DensityModel, ImageShape, LatentDensity, Terms
from flowbench.densities.modes import evaluating
from flowbench.densities.preprocessing import Center, Logit, Preprocessing, dequantize
from flowbench.errors import WorkFailedError

__all__ = ["FlowConfig", "FlowDensity"]


class FlowDensity(LatentDensity):
    """log p(image) = log p_base(z) + log|det ∂z/∂y| + log|det ∂y/∂x| − D log(levels).

    x = (image + noise) / levels, y = preprocessing(x), z = flow(y) (Dinh et al. 2017, eq. 3 and section 4.1).

    Args:
        flow: y to z, z of the shape of y or flat.
        preprocessing: x to y.
        base: of z; None: the flow's own `base` (Glow's learned top).
        image_shape: (channels, height, width).
        levels: grey levels.
    """

    def __init__(
        self, flow: Bijection, preprocessing: Preprocessing, base: Base | None, image_shape: ImageShape, levels: int
    ) -> None:
        super().__init__(image_shape, levels)
        self.flow = flow
        self.preprocessing = preprocessing
        self.own_base = base

    @property
    def base(self) -> Base:
        """The distribution of z."""
        return cast(Base, self.flow.base) if self.own_base is None else self.own_base

    def terms(self, images: Tensor, noise: Tensor) -> Terms:
        """Return the four terms; see the class."""
        y, jacobian = self.flow_input(images, noise)
        z, log_det = self.flow(y)
        quantization = torch.full_like(jacobian, -self.dimensions * math.log(self.levels))
        return Terms(self.base.log_prob(z), log_det, jacobian, quantization)

    def flow_input(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return y, dequantized and preprocessed, (batch, channels, height, width), and its log-Jacobian, (batch,)."""
        self.check(images)
        y, jacobian = self.preprocessing(dequantize(images, noise, self.levels))
        return y, jacobian

    def generated(self, white: Tensor) -> Tensor:
        """Return G(z), the dequantized images x that white latents stand for, in evaluation mode; gradients flow.

        Args:
            white: N(0, 1), (batch, channels, height, width).

        Returns:
            Of the same shape; real images lie in [0, 1), these may leave it.
        """
        with evaluating(self):
            y, _ = self.flow.inverse(self.base.color(white))
            return self.preprocessing.inverse(y)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Return floor(levels · x) of x = preprocessing⁻¹(flow⁻¹(z)), clamped to the levels; in evaluation mode.

        Raises:
            InputError: see `DensityModel.sample`.
            WorkFailedError: some samples are not numbers.
        """
        self.check_sampling(n, temperature)
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        z = self.base.sample((n, *self.image_shape), temperature, generator, device)
        return self.images_of(z)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(channels, height, width): the flow keeps the number of values."""
        return self.image_shape

    def by_scale(self, latents: Tensor) -> list[Tensor]:
        """Return the latents that leave the flow at each scale."""
        return self.flow.by_scale(latents)

    def from_scales(self, parts: Sequence[Tensor]) -> Tensor:
        """Undo `by_scale`."""
        return self.flow.from_scales(parts)

    @torch.no_grad()
    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return white latents, as the flow shapes them: N(0, 1) in every dimension under the model.

        Args:
            images, noise: as in `terms`.
        """
        with evaluating(self):
            z, _ = self.flow(self.flow_input(images, noise)[0])
            return self.base.whiten(z)

    @torch.no_grad()
    def decode(self, white: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `encode` as far as that is possible far from the data, where a flow's inverse may overflow.

        Args:
            white: latents that are N(0, 1) in every dimension under the model.

        Returns:
            uint8 images, (batch, channels, height, width), and which are not numbers, bool (batch,): those are white.
        """
        return self._images_of(self.base.color(white))

    @torch.no_grad()
    def images_of(self, z: Tensor) -> Tensor:
        """Return the uint8 images, (batch, channels, height, width), of latents z; in evaluation mode.

        Raises:
            WorkFailedError: some images are not numbers.
        """
        images, broken = self._images_of(z)
        if bool(broken.any()):
            raise WorkFailedError(
                f"{int(broken.sum())} of {len(images)} images decoded from latents are not numbers: "
                "the flow's inverse overflows; lower the temperature or look at the training"
            )
        return images

    def _images_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        with evaluating(self):
            y, _ = self.flow.inverse(z)
        x = self.preprocessing.inverse(y)
        images = (x * self.levels).floor().nan_to_num(self.levels - 1).clamp(0, self.levels - 1).to(torch.uint8)
        return self._with_broken(images, x)

    def regularization(self) -> Tensor:
        """Return the flow's sum of squares."""
        return self.flow.regularization()


class FlowConfig(DensityConfig):
    """The keys that all flows share."""

    numerics = 2  # 2: another training noise on the CPU, another choice of the mirrored images
    learns_from_samples = True

    logit: Annotated[float, Field(gt=0, lt=0.5)] | None = 0.05
    """α of the logit; None: no logit, pixels are centred at 0 (x − 1/2), as in Glow."""

    def build(self, image_shape: ImageShape, levels: int) -> DensityModel:
        """Return the untrained flow over the images."""
        return FlowDensity(self.flow(image_shape), self.preprocessing(), self.base(), image_shape, levels)

    def preprocessing(self) -> Preprocessing:
        """Return what is done to the dequantized pixels before the flow."""
        return Center() if self.logit is None else Logit(self.logit)

    def flow(self, image_shape: ImageShape) -> Bijection:
        """Return the untrained bijection for images of (channels, height, width)."""
        raise NotImplementedError

    def base(self) -> Base | None:
        """Return the distribution of the latents; None: the flow's own."""
        return StandardNormal()
