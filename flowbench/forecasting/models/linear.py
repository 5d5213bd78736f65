"""Linear, NLinear and DLinear: one linear map from lookback to horizon, shared by all columns.

Zeng, Chen, Zhang, Xu: "Are Transformers Effective for Time Series Forecasting?", AAAI 2023, section 4.1 and the code
beside it (`individual: false`). Columns do not mix: with MS features, only the target's own history counts.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from flowbench.config.registry import forecasters
from flowbench.forecasting.forecaster import Forecaster, InstanceNormalized, LearnedConfig, PullBack, WindowShape
from flowbench.forecasting.windows import Windows

__all__ = ["DLinear", "DLinearConfig", "Linear", "LinearConfig", "NLinear", "NLinearConfig"]

AT_ONCE = 1024
RIDGE = 1e-6
"""Times the number of rows: it decides only what the windows leave open, as those of a constant column do."""


class Linear(Forecaster):
    """ŷ = W x + b for each column, W (horizon, lookback)."""

    def __init__(self, shape: WindowShape) -> None:
        super().__init__(shape)
        self.map = nn.Linear(shape.lookback, shape.horizon)

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: see Forecaster.forward."""
        future: Tensor = self.map(self.targets(history).transpose(1, 2))
        return future.transpose(1, 2)

    def by_hand(self, history: Tensor) -> tuple[Tensor, PullBack]:
        """See Forecaster.by_hand."""
        future, pull_back = _mapped(self.map, self.targets(history).transpose(1, 2))
        return future.transpose(1, 2), lambda gradient: pull_back(gradient.transpose(1, 2))


class NLinear(InstanceNormalized):
    """Linear on values minus the last one, which is added again."""

    def __init__(self, shape: WindowShape) -> None:
        super().__init__(Linear(shape), "last")

    @torch.no_grad()
    def fit_least_squares(self, windows: Windows) -> None:
        """Set W and b to the least squares of all windows and columns (Toner & Darlow 2024, arXiv:2403.14587, eq. 9).

        On normalized values, in float64, by the normal equations with a ridge of 1e-6 a row.
        """
        inputs, count = self.shape.lookback + 1, 0
        products, targets = (torch.zeros(inputs, n, dtype=torch.float64) for n in (inputs, self.shape.horizon))
        for history, future in windows.in_order(AT_ONCE):
            past, last = self.targets(history), self.targets(history)[:, -1:]
            x, y = ((part - last).transpose(1, 2).flatten(0, 1).double().cpu() for part in (past, future))
            x = torch.cat((x, x.new_ones(len(x), 1)), dim=1)
            products, targets, count = products + x.t() @ x, targets + x.t() @ y, count + len(x)
        products.diagonal().add_(RIDGE * count)
        found = torch.linalg.solve(products, targets).t()
        linear = self.network
        assert isinstance(linear, Linear)
        linear.map.weight.copy_(found[:, :-1])
        linear.map.bias.copy_(found[:, -1])


class DLinear(Forecaster):
    """ŷ = W_t A x + b_t + W_s (x − A x) + b_s: A is a centred moving average, the ends padded with the end values."""

    def __init__(self, shape: WindowShape, window: int) -> None:
        super().__init__(shape)
        self.trend = nn.Linear(shape.lookback, shape.horizon)
        self.seasonal = nn.Linear(shape.lookback, shape.horizon)
        self.average = MovingAverage(window)

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: see Forecaster.forward."""
        trend, rest = self._parts(history)
        future: Tensor = self.trend(trend) + self.seasonal(rest)
        return future.transpose(1, 2)

    def by_hand(self, history: Tensor) -> tuple[Tensor, PullBack]:
        """See Forecaster.by_hand."""
        (slow, pull_trend), (fast, pull_seasonal) = map(_mapped, (self.trend, self.seasonal), self._parts(history))

        def pull_back(gradient: Tensor) -> None:
            pull_trend(gradient.transpose(1, 2))
            pull_seasonal(gradient.transpose(1, 2))

        return slow.add_(fast).transpose(1, 2), pull_back

    def _parts(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """Return the trend and what it leaves, both (batch, outputs, lookback)."""
        past = self.targets(history).transpose(1, 2)
        trend = self.average(past)
        return trend, past - trend


class MovingAverage(nn.Module):
    """The centred moving average along the last dimension, the ends padded with the end values.

    Args:
        window: rows of the average; of an even number, one more lies before.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window, self.before, self.after = window, window // 2, (window - 1) // 2

    def forward(self, values: Tensor) -> Tensor:
        """Return the averages of values (batch, columns, rows), likewise."""
        if values.requires_grad:  # learned normalizations round by the gradient's order of sums
            padded = functional.pad(values, (self.before, self.after), mode="replicate")
            return functional.avg_pool1d(padded, self.window, stride=1)
        # Torch adds up number by number. To add whole rows, in the same order and so to the last bit, takes a third of
        # the time (2026-11).
        first, last = values[..., :1].expand(-1, -1, self.before), values[..., -1:].expand(-1, -1, self.after)
        padded = torch.cat((first, values, last), dim=-1)
        total = padded[..., : values.shape[-1]].clone()
        for shift in range(1, self.window):
            total += padded[..., shift : shift + values.shape[-1]]
        return total.div_(self.window)


def _mapped(linear: nn.Linear, rows: Tensor) -> tuple[Tensor, PullBack]:
    """Return W x + b for every row x, and what writes the gradients of W and b.

    Args:
        linear: W and b.
        rows: (batch, columns, inputs).
    """
    with torch.no_grad():
        mapped = functional.linear(rows, linear.weight, linear.bias)

    def pull_back(gradient: Tensor) -> None:
        assert linear.weight.grad is not None
        assert linear.bias.grad is not None
        flat = gradient.flatten(0, 1)
        torch.mm(flat.t(), rows.flatten(0, 1), out=linear.weight.grad)
        torch.sum(flat, dim=0, out=linear.bias.grad)

    return mapped, pull_back


@forecasters.register("linear")
class LinearConfig(LearnedConfig):
    """One linear map of the lookback, shared by all columns (Zeng et al. 2023)."""

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return Linear(shape)


@forecasters.register("nlinear")
class NLinearConfig(LearnedConfig):
    """Linear on values minus the last one, which is added again (Zeng et al. 2023).

    `normalize` comes outside of that.
    """

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return NLinear(shape)


@forecasters.register("dlinear")
class DLinearConfig(LearnedConfig):
    """A linear map of the moving average and one of the rest, added (Zeng et al. 2023)."""

    moving_average: PositiveInt = 25
    """Rows of the moving average."""

    def make(self, shape: WindowShape) -> Forecaster:
        """Build it."""
        return DLinear(shape, self.moving_average)
