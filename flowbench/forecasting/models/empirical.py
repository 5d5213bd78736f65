"""Yesterday, and what came of it before: seasonal naive plus residuals of the training part, drawn as whole paths."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from flowbench.config.registry import forecasters
from flowbench.errors import InputError
from flowbench.forecasting.distribution import DistributionForecaster
from flowbench.forecasting.forecaster import Forecaster, ForecasterConfig, WindowShape
from flowbench.forecasting.models.naive import SeasonalNaiveConfig
from flowbench.forecasting.windows import Windows

__all__ = ["Empirical", "EmpiricalConfig"]

AT_ONCE = 1024


@forecasters.register("empirical")
class EmpiricalConfig(ForecasterConfig):
    """Yesterday, and what came of it before: seasonal naive plus residuals of the training part, as whole paths."""

    distributions: ClassVar[bool] = True

    season: Annotated[int, Field(gt=0)] | None = None
    """Rows of a season; None: those of a day."""
    paths: Annotated[int, Field(ge=2)] = 1000
    """Windows of the training part whose residuals are kept, at even distances."""

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return Empirical(shape, self)


class Empirical(DistributionForecaster):
    """ŷ = x(t + h − k·season) + r, r being the residual path of a window of the training part, each as likely.

    The whole path comes from one window, so that steps and columns hang together as they did then. It has no density.
    """

    has_density = False
    residuals: Tensor  # (paths, horizon, outputs)

    def __init__(self, shape: WindowShape, config: EmpiricalConfig) -> None:
        super().__init__(shape)
        self.naive = SeasonalNaiveConfig(name="seasonal_naive", season=config.season).make(shape)
        self.register_buffer("residuals", torch.zeros(config.paths, shape.horizon, shape.outputs))

    def fit(self, windows: Windows) -> bool:
        """Keep the residuals of the training part; where there are fewer windows than paths, some of them twice."""
        chosen = torch.arange(len(self.residuals)) * len(windows) // len(self.residuals)
        for first in range(0, len(chosen), AT_ONCE):
            here = slice(first, first + AT_ONCE)
            history, future = windows.batch(chosen[here])
            self.residuals[here] = future - self.naive(history)
        return True

    def forward(self, history: Tensor) -> Tensor:
        """Forecast the mean: see Forecaster.forward."""
        mean: Tensor = self.naive(history) + self.residuals.mean(dim=0)
        return mean

    def log_prob_by_value(self, future: Tensor, past: Tensor) -> Tensor:
        """Raise: paths that were seen once are no density."""
        raise InputError("model empirical: it has samples, not a density")

    def sample(self, past: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """See DistributionForecaster."""
        where = past.device if generator is None else generator.device
        drawn = torch.randint(len(self.residuals), (n, len(past)), generator=generator, device=where)
        paths: Tensor = self.naive(past) + self.residuals[drawn.to(self.residuals.device)]
        return paths
