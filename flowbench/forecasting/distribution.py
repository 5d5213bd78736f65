"""What a forecaster is that gives a distribution of the future given the past."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from flowbench.forecasting.forecaster import Forecaster

__all__ = ["DistributionForecaster"]


class DistributionForecaster(Forecaster):
    """A forecaster of distributions, on normalized values; `forward` gives the mean."""

    has_density: ClassVar[bool] = True
    """False: it has samples alone, and `log_prob` raises an InputError."""
    sampled_mean: ClassVar[bool] = False
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
