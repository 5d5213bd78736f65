"""What is trained, seen from the loop: a model on its data, of either kind."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from flowbench.config.schema import Experiment
from flowbench.evaluation.measuring import Request
from flowbench.evaluation.weights import WeightAverage
from flowbench.runs.folder import RunFolder
from flowbench.tasks.objectives import Opponent

__all__ = ["Task", "Watch", "build_model", "make_task"]

Watch = Callable[[int, Mapping[str, float]], None]
"""Told the step and the figures of each validation; what it raises ends the training."""


class Task(Protocol):
    """What the loop needs to know of a model on its data."""

    @property
    def model(self) -> nn.Module:
        """What is saved, averaged and evaluated."""

    @property
    def objective(self) -> nn.Module:
        """`objective(*batch) -> (loss, {name: value})`: scalars on the device; it holds `model`."""

    @property
    def opponent(self) -> Opponent | None:
        """What trains against the model before each of its steps, on the same batch; None: nothing does."""

    @property
    def data(self) -> dict[str, Any]:
        """Name, fingerprint and status of the data, its `numerics`, and what the model must know of it."""

    @property
    def monitor(self) -> str:
        """The key of `validate()` that chooses the best weights; lower is better."""

    unit: ClassVar[str]
    """What a batch is made of: `images` or `windows`."""
    batch_size: int
    steps_per_epoch: int

    def prepare(self) -> bool:
        """Initialize from data; True: the model is fitted in closed form and needs no steps."""

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Return the batch of a step: a function of (seed, step) alone."""

    def validate(self, average: WeightAverage | None, run: RunFolder | None = None) -> dict[str, float] | None:
        """Return figures on the data that chooses; None where nothing was held out.

        With `run`, the values of each image or window are kept in it.
        """

    def population(self, average: WeightAverage | None) -> dict[str, Tensor]:
        """Return the batch statistics that belong to the reported weights, by buffer name; often none."""

    def evaluate(self, run: RunFolder, average: WeightAverage | None) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Return the final metrics by split and notes; write the values per item into the run folder."""

    def choose(self, run: RunFolder, average: WeightAverage | None) -> dict[str, dict[str, Any]]:
        """Return the metrics, by part, on the data that chooses between trainings, never the report split."""

    def measure(self, run: RunFolder, average: WeightAverage | None, request: Request) -> tuple[dict[str, Any], Path]:
        """Evaluate once more as asked; return the content of the file that it wrote, and the file."""


def make_task(experiment: Experiment[Any, Any], device: torch.device, trained: dict[str, Any] | None = None) -> Task:
    """Build the model and open the data of an experiment; the model's first weights follow from the seed.

    Args:
        experiment: what is trained.
        device: where it goes.
        trained: the `data` of a run's `environment.json`, where its model comes back.
    """
    torch.manual_seed(experiment.seed)
    if experiment.kind == "forecast":
        from flowbench.tasks.forecast import ForecastTask

        return ForecastTask(experiment, device, trained)
    from flowbench.tasks.density import DensityTask

    return DensityTask(experiment, device, trained)


def build_model(experiment: Experiment[Any, Any], data: dict[str, Any]) -> nn.Module:
    """Build the untrained model of a run from what its `environment.json` says of the data, without the data."""
    if experiment.kind == "forecast":
        from flowbench.tasks.forecast import build_forecaster

        return build_forecaster(experiment, data)
    from flowbench.tasks.density import build_density

    return build_density(experiment, data)
