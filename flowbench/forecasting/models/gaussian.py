"""Independent normal distributions: NLinear's mean, a learned deviation for each step and column.

The mean is that of Zeng, Chen, Zhang, Xu: "Are Transformers Effective for Time Series Forecasting?", AAAI 2023, section
4.1; it starts at the least squares of the training part. Nothing that a window holds changes the deviations, and no
value tells anything of another one.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from flowbench.config.registry import forecasters
from flowbench.forecasting.distribution import DistributionForecaster
from flowbench.forecasting.forecaster import Forecaster, ForecasterConfig, WindowShape
from flowbench.forecasting.models.linear import NLinear
from flowbench.forecasting.windows import Windows

__all__ = ["Gaussian", "GaussianConfig"]


@forecasters.register("gaussian")
class GaussianConfig(ForecasterConfig):
    """Independent normal distributions: NLinear's mean, a learned deviation for each step and column."""

    distributions: ClassVar[bool] = True
    has_density: ClassVar[bool] = True

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return Gaussian(shape)


class Gaussian(DistributionForecaster):
    """y ~ N(NLinear(x), σ²), σ (horizon, outputs), all values independent."""

    def __init__(self, shape: WindowShape) -> None:
        super().__init__(shape)
        self.mean = NLinear(shape)
        self.log_deviation = nn.Parameter(torch.zeros(shape.horizon, shape.outputs))

    def fit(self, windows: Windows) -> bool:
        """Begin at the least squares; the rest takes steps."""
        self.mean.fit_least_squares(windows)
        return False

    def forward(self, history: Tensor) -> Tensor:
        """Forecast the mean: see Forecaster.forward."""
        mean: Tensor = self.mean(history)
        return mean

    def log_prob_by_value(self, future: Tensor, past: Tensor) -> Tensor:
        """See DistributionForecaster."""
        z: Tensor = (future - self.mean(past)) * torch.exp(-self.log_deviation)
        return -0.5 * (z * z + math.log(2 * math.pi)) - self.log_deviation

    def sample(self, past: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """See DistributionForecaster."""
        mean, deviation = self.normal(past)
        where = past.device if generator is None else generator.device
        noise: Tensor = torch.randn((n, *mean.shape), generator=generator, device=where).to(mean)
        return mean + deviation * noise

    def normal(self, past: Tensor) -> tuple[Tensor, Tensor]:
        """See DistributionForecaster."""
        mean: Tensor = self.mean(past)
        return mean, torch.exp(self.log_deviation).expand_as(mean)
