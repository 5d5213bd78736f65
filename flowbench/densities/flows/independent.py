"""The baseline that any flow must beat: every pixel and channel on its own, as a smoothed histogram."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from flowbench.config.registry import density_models
from flowbench.densities.model import DensityConfig, DensityModel, ImageShape, Terms

__all__ = ["Independent", "IndependentConfig"]


@density_models.register("independent")
class IndependentConfig(DensityConfig):
    """Every pixel and channel on its own, as a smoothed histogram: the baseline that any flow must beat."""

    weighs_scales = False

    smoothing: PositiveFloat | None = None
    """Pseudo-count a of every grey level; None: the one with the best leave-one-out likelihood on training images."""

    def build(self, image_shape: ImageShape, levels: int) -> DensityModel:
        """Return the unfitted model: uniform."""
        return Independent(image_shape, levels, self.smoothing)


class Independent(DensityModel):
    """p(image) = Π_i p_i(x_i) with p_i(v) = (n_i(v) + a) / (N + a · levels), n_i(v) training images with x_i = v.

    That is the posterior mean under a symmetric Dirichlet prior. The likelihood is exact: grey levels stay discrete,
    nothing is dequantized.

    Args:
        image_shape: (channels, height, width).
        levels: grey levels.
        smoothing: a; None: chosen in `fit`.
    """

    dequantization = "none"

    def __init__(self, image_shape: ImageShape, levels: int, smoothing: float | None = None) -> None:
        super().__init__(image_shape, levels)
        self.smoothing = smoothing
        self.log_probabilities: Tensor
        self.register_buffer("log_probabilities", torch.full((self.dimensions, levels), -math.log(levels)))

    def terms(self, images: Tensor, noise: Tensor) -> Terms:
        """Return log p(images) as `prior`; the noise is not looked at, the other terms are 0."""
        self.check(images)
        values = images.flatten(1).long().T
        log_prob = self.log_probabilities.gather(1, values).sum(0)
        zero = torch.zeros_like(log_prob)
        return Terms(prior=log_prob, log_det=zero, preprocessing=zero, quantization=zero)

    def fit(self, images: Iterable[Tensor]) -> bool:
        """Count all training images, smooth, and say True: there is nothing left to train."""
        flat = np.zeros(self.dimensions * self.levels, np.int64)
        offsets = np.arange(self.dimensions) * self.levels
        for batch in images:
            self.check(batch)
            places = batch.flatten(1).cpu().numpy() + offsets
            flat += np.bincount(places.ravel(), minlength=len(flat))
        counts = flat.reshape(self.dimensions, self.levels)
        a = best_smoothing(counts) if self.smoothing is None else self.smoothing
        probabilities = (counts + a) / (counts.sum(1, keepdims=True) + a * self.levels)
        self.log_probabilities.copy_(torch.from_numpy(np.log(probabilities)))
        return True

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Return images with every value drawn from p_i^(1/temperature²), normalized; at 0 its mode.

        Raises:
            InputError: see `DensityModel.sample`.
        """
        self.check_sampling(n, temperature)
        logits = self.log_probabilities if generator is None else self.log_probabilities.to(generator.device)
        # Colder than that float32 holds no tempered logits; and nothing is drawn of nothing.
        if temperature < 1e-15 or n == 0:
            values = logits.argmax(1, keepdim=True).expand(-1, n)
        else:
            tempered = F.softmax(logits / (temperature * temperature), dim=1)
            values = torch.multinomial(tempered, n, replacement=True, generator=generator)
        return values.T.reshape(n, *self.image_shape).to(self.log_probabilities.device, torch.uint8)


def best_smoothing(counts: NDArray[np.int64]) -> float:
    """Return the pseudo-count a that maximizes the leave-one-out likelihood Σ_iv n_iv log (n_iv − 1 + a)/(N − 1 + aL).

    It asks of each training image how the histograms of all the others predict it, with one a for all pixels; a
    histogram with no image or a single one says nothing, and Laplace's a = 1 is returned.

    Args:
        counts: n_iv, (dimensions, levels), each row with sum N.
    """
    # Imported here: it takes a fifth of torch's time, and only this model needs it.
    import scipy.optimize

    levels = counts.shape[1]
    images = int(counts[0].sum())
    if images < 2:
        return 1.0
    # A pixel's grey levels with the same count contribute the same: there are few distinct counts.
    distinct, repeated = np.unique(counts[counts > 0], return_counts=True)
    weights = distinct * repeated

    def loss(log_a: float) -> float:
        a = math.exp(log_a)
        terms = np.log(distinct - 1 + a) - math.log(images - 1 + a * levels)
        return -float((weights * terms).sum())

    found = scipy.optimize.minimize_scalar(loss, bounds=(math.log(1e-4), math.log(100)), method="bounded")
    return math.exp(float(found.x))
