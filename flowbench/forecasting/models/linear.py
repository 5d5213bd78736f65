"""Linear, NLinear and DLinear: one linear map from lookback to horizon, shared by all columns.

Zeng, Chen, Zhang, Xu: "Are Transformers Effective for Time Series Forecasting?", AAAI 2023, section 4.1 and the code
beside it (`individual: false`). Columns do not mix: with MS features, only the target's own history counts.
"""

from pydantic import PositiveInt
from torch import Tensor, nn

from flowbench.config.registry import forecasters
from flowbench.forecasting.forecaster import Forecaster, InstanceNormalized, LearnedConfig, WindowShape

__all__ = ["DLinear", "DLinearConfig", "Linear", "LinearConfig", "NLinearConfig"]


class Linear(Forecaster):
    """ŷ = W x + b for each column, W (horizon, lookback)."""

    def __init__(self, shape: WindowShape) -> None:
        super().__init__(shape)
        self.map = nn.Linear(shape.lookback, shape.horizon)

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: see Forecaster.forward."""
        future: Tensor = self.map(self.targets(history).transpose(1, 2))
        return future.transpose(1, 2)


class DLinear(Forecaster):
    """ŷ = W_t A x + b_t + W_s (x − A x) + b_s: A is a centred moving average, the ends padded with the end values."""

    def __init__(self, shape: WindowShape, window: int) -> None:
        super().__init__(shape)
        self.trend = nn.Linear(shape.lookback, shape.horizon)
        self.seasonal = nn.Linear(shape.lookback, shape.horizon)
        self.average = nn.Sequential(nn.ReplicationPad1d((window // 2, (window - 1) // 2)), nn.AvgPool1d(window, 1))

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: see Forecaster.forward."""
        past = self.targets(history).transpose(1, 2)
        trend = self.average(past)
        future: Tensor = self.trend(trend) + self.seasonal(past - trend)
        return future.transpose(1, 2)


@forecasters.register("linear")
class LinearConfig(LearnedConfig):
    """`name: linear`."""

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return Linear(shape)


@forecasters.register("nlinear")
class NLinearConfig(LearnedConfig):
    """`name: nlinear`: Linear on values minus the last one, which is added again; `normalize` comes outside of that."""

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return InstanceNormalized(Linear(shape), "last")


@forecasters.register("dlinear")
class DLinearConfig(LearnedConfig):
    """`name: dlinear`."""

    moving_average: PositiveInt = 25
    """Rows of the moving average."""

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return DLinear(shape, self.moving_average)
