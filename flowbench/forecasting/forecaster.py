"""What every forecaster is: a module from normalized history to normalized future, and its part of the config."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from flowbench.config.schema import ModelConfig

if TYPE_CHECKING:  # what reads series takes pandas, half a second
    from flowbench.forecasting.windows import Windows

__all__ = ["Forecaster", "ForecasterConfig", "InstanceNormalized", "LearnedConfig", "PullBack", "WindowShape"]

Normalization = Literal["none", "last", "standard", "revin"]
PullBack = Callable[[Tensor], None]
"""Takes the gradient of a forecast and writes the parameters' gradients over those that they have."""


@dataclass(frozen=True)
class WindowShape:
    """Sizes that a forecaster is built for; the outputs are the last of the inputs."""

    lookback: int
    horizon: int
    inputs: int
    outputs: int
    rows_per_day: int = 24


class Forecaster(nn.Module):
    """Base of all forecasters."""

    def __init__(self, shape: WindowShape) -> None:
        super().__init__()
        self.shape = shape

    @abstractmethod
    def forward(self, history: Tensor) -> Tensor:
        """Forecast.

        Args:
            history: normalized, (batch, lookback, inputs).

        Returns:
            The normalized future of the last `outputs` inputs, (batch, horizon, outputs).
        """

    @property
    def draws(self) -> bool:
        """Whether `training_forward` may draw from its generator."""
        return type(self).training_forward is not Forecaster.training_forward

    def training_forward(self, history: Tensor, future: Tensor, generator: torch.Generator) -> Tensor:
        """Forecast in training, where the future (batch, horizon, outputs) is known and may be fed back."""
        return cast(Tensor, self(history))

    @property
    def has_way_back(self) -> bool:
        """Whether it has `by_hand`; else autograd alone knows its gradients."""
        return type(self).by_hand is not Forecaster.by_hand

    def by_hand(self, history: Tensor) -> tuple[Tensor, PullBack]:
        """Forecast in training, and tell the way back, where that is a product or two.

        To the last bit what `forward` and autograd give; every parameter has a gradient, to be written over. The graph,
        and copies that it needs, are a third of a small linear model's step (2026-11).

        Args:
            history: normalized, (batch, lookback, inputs); not to be used again.

        Returns:
            What `forward` does, for the caller to write over, and the way back.
        """
        raise NotImplementedError

    def fit(self, windows: "Windows") -> bool:
        """Fit in closed form and return True, where a model can or has nothing to learn; False: it needs steps."""
        return False

    def targets(self, history: Tensor) -> Tensor:
        """Return the history of the outputs, (batch, lookback, outputs)."""
        return history[..., self.shape.inputs - self.shape.outputs :]


class ForecasterConfig(ModelConfig):
    """The `model:` section of a forecast experiment."""

    distributions: ClassVar[bool] = False
    """Whether it forecasts distributions: `make` gives a `DistributionForecaster`."""
    has_density: ClassVar[bool] = False
    """Whether those have a density: it is trained and chosen by its likelihood."""

    @abstractmethod
    def make(self, shape: WindowShape) -> Forecaster:
        """Build the network itself."""

    def build(
        self, *, lookback: int, horizon: int, inputs: int, outputs: int, rows_per_day: int = 24
    ) -> Forecaster:  # fmt: skip
        """Build the forecaster; its first weights follow from torch's global seed."""
        return self.make(WindowShape(lookback, horizon, inputs, outputs, rows_per_day))


class LearnedConfig(ForecasterConfig):
    """The `model:` section of a forecaster with parameters."""

    added: ClassVar[frozenset[str]] = frozenset({"loss"})

    normalize: Normalization = "none"
    """Of each window by itself, undone after the forecast: see InstanceNormalized."""
    loss: Literal["mse", "mae"] = "mse"
    """What training minimizes on normalized values, and what the best epoch is best in."""

    def build(
        self, *, lookback: int, horizon: int, inputs: int, outputs: int, rows_per_day: int = 24
    ) -> Forecaster:  # fmt: skip
        """Build the network, wrapped into its instance normalization where one is asked for."""
        network = self.make(WindowShape(lookback, horizon, inputs, outputs, rows_per_day))
        return network if self.normalize == "none" else InstanceNormalized(network, self.normalize)


class InstanceNormalized(Forecaster):
    """A forecaster on windows that are normalized each by itself, column by column, and mapped back afterwards.

    - `last`: x − x_last (Zeng et al. 2023, section 4.1, "NLinear").
    - `standard`: (x − mean) / √(var + 1e-5) over the lookback (Liu et al. 2022, "Non-stationary transformers", eq. 1).
    - `revin`: γ (x − mean) / √(var + 1e-5) + β over the lookback, with learned γ and β per column (Kim et al. 2022,
      "Reversible instance normalization", eq. 1–3).
    """

    def __init__(self, network: Forecaster, normalize: Literal["last", "standard", "revin"]) -> None:
        super().__init__(network.shape)
        self.network = network
        self.normalize = normalize
        if normalize == "revin":
            self.weight = nn.Parameter(torch.ones(network.shape.inputs))
            self.bias = nn.Parameter(torch.zeros(network.shape.inputs))

    @property
    def draws(self) -> bool:
        """Whether the network does."""
        return self.network.draws

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: see Forecaster.forward."""
        seen, undo, _ = self._normalized(history)
        return undo(self.network(seen))

    def training_forward(self, history: Tensor, future: Tensor, generator: torch.Generator) -> Tensor:
        """Forecast in training: the future is normalized with the history's statistics."""
        seen, undo, same = self._normalized(history)
        if not self.draws:
            return undo(self.network(seen))
        return undo(self.network.training_forward(seen, same(future), generator))

    @property
    def has_way_back(self) -> bool:
        """Whether the network has, and what is undone moves its forecast by constants."""
        return self.normalize == "last" and self.network.has_way_back

    def by_hand(self, history: Tensor) -> tuple[Tensor, PullBack]:
        """See Forecaster.by_hand."""
        last = history[:, -1:].clone()
        forecast, pull_back = self.network.by_hand(history.sub_(last))
        return forecast.add_(self.targets(last)), pull_back

    def fit(self, windows: "Windows") -> bool:
        """Nothing here has a closed form."""
        return False

    def _normalized(self, history: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """Return the history normalized, and the maps that undo it in a forecast and that do it to a known future."""
        if self.normalize == "last":
            last = history[:, -1:]
            here = self.targets(last)
            return history - last, lambda forecast: forecast + here, lambda future: future - here
        variance, mean = torch.var_mean(history, dim=1, keepdim=True, correction=0)
        # The statistics are constants of the window: no gradient flows to the data in any case.
        scale = torch.rsqrt(variance + 1e-5)
        if self.normalize == "standard":
            offset = torch.zeros_like(scale)
        else:
            scale, offset = self.weight * scale, self.bias.view(1, 1, -1)
        mean_here, scale_here, offset_here = map(self.targets, (mean, scale, offset))

        def undo(forecast: Tensor) -> Tensor:
            forecast = (forecast - offset_here) / scale_here + mean_here
            if forecast.requires_grad:
                # The gradients of γ and β are sums over it, and round by its order of memory: as stored results did.
                forecast.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
            return forecast

        return (
            (history - mean) * scale + offset,
            undo,
            lambda future: (future - mean_here) * scale_here + offset_here,
        )
