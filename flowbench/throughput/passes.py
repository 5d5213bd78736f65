"""The three passes of a density model, as training, evaluation and sampling run them, on random images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowbench.config.schema import DensityData, Experiment
from flowbench.data.feed import channels_first
from flowbench.data.images import image_format
from flowbench.densities.flow_density import FlowDensity
from flowbench.densities.flows.normalization import population_statistics
from flowbench.densities.model import DensityConfig, DensityModel
from flowbench.densities.modes import evaluating
from flowbench.densities.noise import training_noise
from flowbench.errors import InputError
from flowbench.evaluation.weights import WeightAverage
from flowbench.tasks.compilation import as_compiled
from flowbench.tasks.density import build_density
from flowbench.tasks.hand_derived import descend
from flowbench.tasks.objectives import density_objective
from flowbench.training.opposition import Opposition
from flowbench.training.optimization import learning_rate, make_optimizer, take_step

__all__ = ["PASSES", "Subject", "can_be_compiled", "make_subject", "passes_of", "subject_of"]


@dataclass(frozen=True)
class Subject:
    """A model that can be timed, with a batch for it."""

    experiment: Experiment[DensityData, DensityConfig]
    model: DensityModel
    images: Tensor
    """uint8, (batch, channels, height, width), in memory as training is fed."""

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def evaluated(self) -> DensityModel:
        """Return the model in evaluation mode, with statistics of this batch and these weights.

        Untrained moving averages would let activations explode.
        """
        with torch.no_grad(), population_statistics(self.model):
            self.model.terms(self.images, self.noise(0))
        return self.model.eval()

    def noise(self, step: int) -> Tensor:
        """Return the noise of a step, drawn as training draws it."""
        shape = (len(self.images), *self.model.noise_shape)
        return training_noise(self.experiment.seed, step, shape, self.images.device, distribution=self.model.noise)


def make_subject(
    experiment: Experiment[Any, Any], batch: int, device: torch.device, shape: tuple[int, int, int] | None = None
) -> Subject:
    """Build an experiment's model, initialized on a batch of random images.

    Args:
        experiment: of kind density.
        batch: number of images.
        device: where model and images lie.
        shape: (channels, height, width); None: that of the experiment's data set.

    Raises:
        InputError: a forecast experiment, a model without parameters, or images of unknown size.
    """
    subject = subject_of(experiment, batch, device, shape)
    if subject.parameters == 0:
        raise InputError(f"{experiment.name}: {experiment.model.name} has no parameters: there is no pass to time")
    return subject


def subject_of(
    experiment: Experiment[Any, Any], batch: int, device: torch.device, shape: tuple[int, int, int] | None = None
) -> Subject:
    """Return what `make_subject` does, arguments as there, of a model without parameters too: fitted to the images."""
    if experiment.kind != "density":
        raise InputError(f"{experiment.name}: throughput times density models; forecasters are timed in benchmarks/")
    shape, levels = image_format(experiment.data, shape)
    torch.manual_seed(experiment.seed)
    model = build_density(experiment, {"shape": shape, "levels": levels}).to(device)
    generator = torch.Generator().manual_seed(experiment.seed)
    channels, height, width = shape
    stored = torch.randint(0, levels, (batch, height, width, channels), generator=generator, dtype=torch.uint8)
    subject = Subject(experiment, model, channels_first(stored.to(device)))
    if not model.fit([subject.images]):
        model.initialize(subject.images, subject.noise(0))
    return subject


def passes_of(subject: Subject) -> list[str]:
    """Return which of `PASSES` a model has: without parameters it is not trained step by step; some have no samples."""
    has = {"train": subject.parameters > 0, "inverse": _can_be_sampled(subject.model)}
    return [name for name in PASSES if has.get(name, True)]


def _can_be_sampled(model: DensityModel) -> bool:
    try:
        model.sample(0)
    except InputError:
        return False
    return True


def can_be_compiled(subject: Subject, name: str) -> bool:
    """Say whether a pass of `PASSES` can be compiled: sampling can where it is one pass of a flow's inverse."""
    return name != "inverse" or (isinstance(subject.model, FlowDensity) and subject.model.flow.inverse_compiles)


def _train(subject: Subject, *, compiled: bool) -> Callable[[], object]:
    config, model = subject.experiment, subject.model
    objective, opponent = density_objective(config, model, compiled=compiled)
    opposition = Opposition(opponent, subject.images.device) if opponent else None
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(parameters, config.optim)
    average = WeightAverage(model, config.train.ema) if config.train.ema else None
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config.optim, 0.0, 0)
    step = 0
    model.train()

    def run() -> Tensor:
        nonlocal step
        batch = subject.images, subject.noise(step)
        if opposition:
            opposition.train(batch)
        loss, _ = descend(objective, batch)
        take_step(optimizer, parameters, loss, config.optim.clip_norm)
        step += 1
        if average:
            average.update(step)
        return loss

    return run


def _forward(subject: Subject, *, compiled: bool) -> Callable[[], object]:
    model = subject.evaluated()
    terms = as_compiled(model.terms, subject.images.device) if compiled else model.terms
    noise = subject.noise(0)

    def run() -> Tensor:
        with torch.no_grad():
            log_prob: Tensor = terms(subject.images, noise).log_prob
            return log_prob

    return run


def _inverse(subject: Subject, *, compiled: bool) -> Callable[[], object]:
    model = subject.evaluated()
    generator = torch.Generator(subject.images.device).manual_seed(0)
    if compiled:
        assert isinstance(model, FlowDensity)
        # The rest of sampling, the draw of the latents and the grey levels, is the same in every model.
        model.flow.inverse = as_compiled(model.flow.inverse, subject.images.device)  # type: ignore[method-assign]

    def run() -> Tensor:
        with evaluating(model):
            return model.sample(len(subject.images), generator=generator)

    return run


PASSES: dict[str, Callable[..., Callable[[], object]]] = {"train": _train, "forward": _forward, "inverse": _inverse}
"""By name: from a subject, and whether it is compiled, to a function that runs the pass once.

train: noise, loss, gradients, clipping, optimizer, moving averages; forward: log p in evaluation mode without
gradients; inverse: sampling, from latents to uint8 images.
"""
