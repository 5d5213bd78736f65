"""What a forecaster is that gives a distribution of the future given the past."""

from abc import abstractmethod
from typing import Literal, cast

import torch
from torch import Tensor

from flowbench.forecasting.forecaster import Forecaster, InstanceNormalized

__all__ = ["DistributionForecaster", "InstanceNormalizedDistribution"]


class DistributionForecaster(Forecaster):
    """A forecaster of distributions, on normalized values; `forward` gives the mean."""

    has_density: bool = True
    """False: it has samples alone, and `log_prob` raises an InputError."""
    sampled_mean: bool = False
    """Whether `forward` is a mean over samples, not the exact one."""

    @abstractmethod
    def log_prob_by_value(self, future: Tensor, past: Tensor) -> Tensor:
        """Return what each value of the future contributes to `log_prob`, in nats, (batch, horizon, outputs).

        Of independent values it is each one's log-density; of a flow the part of its place: `ConditionalFlow`.

        Args:
            future: normalized, (batch, horizon, outputs).
            past: normalized, (batch, lookback, inputs).

        Raises:
            InputError: the forecaster has no density.
        """

    @abstractmethod
    def sample(self, past: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n normalized futures of each past: (n, batch, horizon, outputs).

        Args:
            past: normalized, (batch, lookback, inputs).
            n: 0 or more.
            generator: None: torch's global one.
        """

    def log_prob(self, future: Tensor, past: Tensor) -> Tensor:
        """Return log p(future | past) in nats, (batch,), of the joint density of all steps and columns.

        Gradients flow. Arguments and errors: see `log_prob_by_value`.
        """
        return self.log_prob_by_value(future, past).flatten(1).sum(1)

    def normal(self, past: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return mean and deviation of every value, (batch, horizon, outputs) each, where each is normal; else None."""
        return None

    def normalized(self, how: Literal["last", "revin"]) -> Forecaster:
        """Return this forecaster on windows that are normalized each by itself."""
        return InstanceNormalizedDistribution(self, how)


class InstanceNormalizedDistribution(InstanceNormalized, DistributionForecaster):
    """See InstanceNormalized: the density of x is that of (x − shift)·scale + offset, times |scale|."""

    def __init__(self, network: DistributionForecaster, normalize: Literal["last", "revin"]) -> None:
        super().__init__(network, normalize)
        self.has_density, self.sampled_mean = network.has_density, network.sampled_mean

    def log_prob_by_value(self, future: Tensor, past: Tensor) -> Tensor:
        """See DistributionForecaster."""
        shift, scale, offset = self._map(past)
        of_targets = self.targets(scale)
        known = (future - self.targets(shift)) * of_targets + self.targets(offset)
        inside = self._inside().log_prob_by_value(known, (past - shift) * scale + offset)
        return inside + of_targets.abs().log()

    def sample(self, past: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """See DistributionForecaster."""
        shift, scale, offset = self._map(past)
        return self._undo(self._inside().sample((past - shift) * scale + offset, n, generator), shift, scale, offset)

    def normal(self, past: Tensor) -> tuple[Tensor, Tensor] | None:
        """See DistributionForecaster."""
        shift, scale, offset = self._map(past)
        inside = self._inside().normal((past - shift) * scale + offset)
        if inside is None:
            return None
        mean, deviation = inside
        return self._undo(mean, shift, scale, offset), deviation / self.targets(scale).abs()

    def _inside(self) -> DistributionForecaster:
        return cast(DistributionForecaster, self.network)
