"""A flow trained under Gaussian noise, as TarFlow for pictures: its input in training, what becomes of samples."""

import math

import torch
from torch import Tensor

from flowbench.densities.bases import Base
from flowbench.densities.bijection import Bijection
from flowbench.densities.flow_density import FlowDensity
from flowbench.densities.model import ImageShape
from flowbench.densities.modes import evaluating
from flowbench.densities.preprocessing import Preprocessing

__all__ = ["NoisyFlowDensity", "denoised"]

FINEST = 2.0**-16
"""Spacing of the training noise on a CPU (`training_noise`)."""


class NoisyFlowDensity(FlowDensity):
    """A flow over dequantized images that may be trained on images with Gaussian noise instead.

    In training mode under σ > 0, x = 2 · image / (levels − 1) − 1 + σ · ε (Zhai et al. 2024, section 3.4): the terms
    are those of dequantized images, put together of another x, and no likelihood of an image. In evaluation mode images
    are dequantized uniformly whatever σ is, so that every reported figure bounds the probability of the image itself.
    Samples under σ > 0 are denoised, and rounded to the levels.

    Args:
        flow, preprocessing, base, image_shape, levels: see `FlowDensity`.
        noise_std: σ, of pixels in [−1, 1]; 0: dequantized in training, too.
    """

    def __init__(
        self,
        flow: Bijection,
        preprocessing: Preprocessing,
        base: Base | None,
        image_shape: ImageShape,
        levels: int,
        noise_std: float,
    ) -> None:
        super().__init__(flow, preprocessing, base, image_shape, levels)
        self.noise_std = noise_std

    def flow_input(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the flow takes, (batch, channels, height, width), and its log-Jacobian, (batch,).

        Args:
            images: uint8.
            noise: in [0, 1): of dequantization, or of which ε is the normal quantile.
        """
        if not (self.training and self.noise_std):
            return super().flow_input(images, noise)
        self.check(images)
        # From the middle of each of the noise's steps: at 0 the quantile is infinite. No ε is above 4.3.
        gaussian = torch.special.ndtri(noise * (1 - FINEST) + FINEST / 2)
        clean = images.to(noise.dtype) * (2 / (self.levels - 1)) - 1
        x = clean + self.noise_std * gaussian
        return x, x.new_full((len(x),), self.dimensions * math.log(2))

    def _images_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if not self.noise_std:
            return super()._images_of(z)
        with evaluating(self):
            noisy, _ = self.flow.inverse(z)
            x = denoised(self.flow, self.base, noisy, self.noise_std)
        grey = (0.5 * (self.levels - 1) * (x + 1)).round().nan_to_num(self.levels - 1)
        return self._with_broken(grey.clamp(0, self.levels - 1).to(torch.uint8), x)


def denoised(flow: Bijection, base: Base, x: Tensor, noise_std: float, *labels: Tensor | None) -> Tensor:
    """Return x + σ² ∇ log p(x), the expected image under noise of σ (Tweedie; Zhai et al. 2024, section 3.4).

    Args:
        flow: of the noisy images.
        base: of the flow's latents. The authors' program has N(0, 1) here even where it learns variances.
        x: noisy images, (batch, channels, height, width), for example samples.
        noise_std: σ.
        labels: what `flow` takes beside x.
    """
    with torch.enable_grad():
        noisy = x.detach().requires_grad_()
        z, log_det = flow(noisy, *labels)
        (score,) = torch.autograd.grad((base.log_prob(z) + log_det).sum(), noisy)
    return x + noise_std**2 * score
