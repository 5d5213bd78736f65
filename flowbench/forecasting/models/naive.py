"""The floor that every learned model has to beat: repeat the last row, repeat yesterday, repeat the mean."""

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from flowbench.config.registry import forecasters
from flowbench.errors import InputError
from flowbench.forecasting.forecaster import Forecaster, ForecasterConfig, WindowShape
from flowbench.forecasting.windows import Windows

__all__ = ["MeanConfig", "RepeatLastConfig", "SeasonalNaiveConfig"]


class Naive(Forecaster):
    """A forecaster without parameters."""

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: see Forecaster.forward."""
        return self.repeat(self.targets(history))

    def fit(self, windows: Windows) -> bool:
        """There is nothing to learn."""
        return True

    @abstractmethod
    def repeat(self, past: Tensor) -> Tensor:
        """Return the future (batch, horizon, outputs) of the outputs' past (batch, lookback, outputs)."""


class RepeatLast(Naive):
    """ŷ(t + h) = x(t)."""

    def repeat(self, past: Tensor) -> Tensor:
        """Return the last row, horizon times."""
        return past[:, -1:].expand(-1, self.shape.horizon, -1)


class SeasonalNaive(Naive):
    """ŷ(t + h) = x(t + h − k·season) with the smallest k that reaches the past."""

    def __init__(self, shape: WindowShape, season: int) -> None:
        super().__init__(shape)
        if season > shape.lookback:
            raise InputError(f"model.season: {season} rows are more than data.lookback {shape.lookback}")
        self.season = season

    def repeat(self, past: Tensor) -> Tensor:
        """Return the last season, as often as the horizon needs."""
        places = torch.arange(self.shape.horizon, device=past.device) % self.season
        return past[:, self.shape.lookback - self.season + places]


class Mean(Naive):
    """ŷ(t + h) = mean of the lookback."""

    def repeat(self, past: Tensor) -> Tensor:
        """Return the mean row, horizon times."""
        return past.mean(dim=1, keepdim=True).expand(-1, self.shape.horizon, -1)


@forecasters.register("repeat_last")
class RepeatLastConfig(ForecasterConfig):
    """The last row, repeated: a floor that learned models have to beat."""

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return RepeatLast(shape)


@forecasters.register("seasonal_naive")
class SeasonalNaiveConfig(ForecasterConfig):
    """The values of a day ago, repeated: a floor that learned models have to beat."""

    season: Annotated[int, Field(gt=0)] | None = None
    """Rows of a season; None: those of a day, 24 for hourly files, 96 for 15-minute ones."""

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return SeasonalNaive(shape, self.season or shape.rows_per_day)


@forecasters.register("mean")
class MeanConfig(ForecasterConfig):
    """The mean of the lookback, repeated: a floor that learned models have to beat."""

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return Mean(shape)
