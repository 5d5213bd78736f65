"""Moving averages of a model's weights, and what is measured with them in place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from flowbench.errors import InputError

__all__ = ["WeightAverage", "Weights", "reported_weights"]

Weights = Literal["raw", "ema"]


class WeightAverage:
    """Exponential moving average of a model's parameters: e ← d·e + (1 − d)·θ, with d = min(decay, (1 + t)/(10 + t)).

    The smaller decay of the first steps lets the average forget the random start (as in TensorFlow's moving averages).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._parameters = dict(model.named_parameters())
        self._average = {name: value.detach().clone() for name, value in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        # One call for all parameters: a loop over a thousand of them costs a GPU more than the step's arithmetic.
        torch._foreach_lerp_(list(self._average.values()), list(self._parameters.values()), weight)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by parameter name."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the averages of a checkpoint."""
        for name, value in self._average.items():
            value.copy_(state[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block, the model has the averages for weights."""
        kept = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._put(self._average)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])


@contextmanager
def reported_weights(average: WeightAverage | None, weights: Weights) -> Iterator[None]:
    """Put the moving averages in the parameters' place inside the block, where they are asked for."""
    if weights == "raw":
        yield
        return
    if average is None:
        raise InputError("weights: ema asks for moving averages, but the training kept none (train.ema is 0)")
    with average.in_place():
        yield
