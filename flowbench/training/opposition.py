"""The other side of an adversarial training: its steps, and its state beside the model's."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowbench.config.schema import Optim
from flowbench.system.processes import distribute, mean_of_all
from flowbench.tasks.objectives import Opponent
from flowbench.training.optimization import make_optimizer, take_step

__all__ = ["Opposition"]


class Opposition:
    """An opponent with its optimizer.

    Args:
        opponent: what opposes the model, on `device`.
        device: of the training.
    """

    def __init__(self, opponent: Opponent, device: torch.device) -> None:
        config = opponent.config
        self._network, self._updates = opponent.network, config.updates
        self._parameters = list(opponent.network.parameters())
        self._optimizer = make_optimizer(self._parameters, Optim(name="adam", lr=config.lr, betas=config.betas))
        self._objective = distribute(opponent.objective, device)

    def train(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Take the opponent's steps on a batch; return what its last one says, under `critic/`."""
        values: dict[str, Tensor] = {}
        for _ in range(self._updates):
            loss, terms = self._objective(*batch)
            torch.autograd.backward(loss)
            values = mean_of_all({key: value.detach() for key, value in {"loss": loss, **terms}.items()})
            take_step(self._optimizer, self._parameters, values["loss"], None)
        return {f"critic/{key}": value for key, value in values.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return network and optimizer, for the checkpoint."""
        return {"network": self._network.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` returned."""
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
