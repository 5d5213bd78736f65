"""What a figure depends on beside model and images, and the model in that state: which weights, which statistics."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from flowbench.data import Images
from flowbench.data.feed import Feed
from flowbench.densities.flows.normalization import BatchStatistics, population_statistics
from flowbench.densities.model import DensityModel
from flowbench.densities.modes import evaluating
from flowbench.densities.noise import training_noise
from flowbench.evaluation.weights import WeightAverage, Weights, reported_weights
from flowbench.system.processes import place
from flowbench.system.progress import counted

__all__ = [
    "POPULATION_BATCHES",
    "Mode",
    "Setting",
    "estimate_population",
    "explain_batch_norm",
    "is_normalized",
    "reported_state",
    "reported_statistics",
]

POPULATION_BATCHES = 200
Mode = Literal["running", "population"]


@dataclass(frozen=True)
class Setting:
    """Everything that a figure depends on beside the model and the images."""

    seed: int = 0
    """Of the noise."""
    draws: int = 1
    """Draws of noise per image."""
    importance: int | None = None
    """K: also give the K-sample importance-weighted bound."""
    batch_norm: Mode = "population"
    weights: Weights = "raw"
    training_batch_size: int = 64
    """Images in each batch over which population statistics are estimated: that of the training."""
    batch_size: int = 256
    """Images evaluated at once; no result depends on it."""
    samples: int | None = None
    """Also give FID and KID of that many samples (not by `evaluate`: see `sample_quality`)."""
    other_mode: bool = True
    """Give the figure in the other batch-norm mode beside the one asked for."""
    limit: int | None = None
    """Measure so many images only, and estimate population statistics on about as many."""


def is_normalized(model: DensityModel) -> bool:
    """Return whether figures of the model depend on batch-norm statistics."""
    return any(isinstance(module, BatchStatistics) for module in model.modules())


@contextmanager
def reported_state(
    model: DensityModel, setting: Setting, training: Images, average: WeightAverage | None
) -> Iterator[None]:
    """Inside the block, `model` has the weights and the batch-norm statistics that `setting` reports."""
    with (
        reported_weights(average, setting.weights),
        evaluating(model),
        torch.no_grad(),
        reported_statistics(model, training if is_normalized(model) else None, setting),
    ):
        yield


@contextmanager
def reported_statistics(model: DensityModel, training: Images | None, setting: Setting) -> Iterator[None]:
    """Put population statistics in place inside the block, where they are asked for, and the model's own back after."""
    if training is None or setting.batch_norm == "running":
        yield
        return
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        size, batches = setting.training_batch_size, POPULATION_BATCHES
        if setting.limit is not None:
            batches = min(batches, -(-setting.limit // size))
        estimate_population(model, training, size, setting.seed, batches)
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])


def estimate_population(
    model: DensityModel, training: Images, batch_size: int, seed: int, batches: int = POPULATION_BATCHES
) -> None:
    """Replace the batch-norm statistics by those of the whole training data under today's weights.

    One pass of min(all, `batches`) training batches, not flipped, with fixed noise: means of the means and of E[x²].
    Only the normalizations are in training mode: dropout would change the very variances that are estimated.

    Args:
        model: whose statistics are set.
        training: training images.
        batch_size: of the training.
        seed: of the batches and the noise.
        batches: how many, at most.
    """
    device = next(model.parameters()).device
    size = min(batch_size, len(training))
    # Statistics are those of all processes' parts together; where a batch cannot be split, each takes all of it.
    rank, ranks = place() if size % place()[1] == 0 else (0, 1)
    # A part of a large set is read, not all of it copied to the device once more.
    resident = False if size * batches < len(training) else None
    feed = Feed(
        training,
        batch_size=size,
        seed=seed,
        flip=False,
        device=device,
        rank=rank,
        ranks=ranks,
        resident=resident,
    )
    with torch.no_grad(), population_statistics(model):
        steps = min(feed.steps_per_epoch, batches)
        for step in counted(range(steps), "batch-norm statistics", steps):
            batch = feed.batch(step)
            noise = training_noise(
                seed, step, (size, *model.noise_shape), device, stream="population", distribution=model.noise
            )
            model.terms(batch, noise[rank * len(batch) : (rank + 1) * len(batch)])


def explain_batch_norm(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], limit: float = 0.1) -> str | None:
    """Return one line if the two batch-norm modes disagree by more than `limit` bits/dim on some split, else None.

    Args:
        metrics: by split and metric, as in result.json, with the other mode's figure beside `bits_per_dim`.
        limit: bits/dim.
    """
    figures: dict[str, dict[str, float]] = {}
    for split, of_split in metrics.items():
        for metric in ("bits_per_dim", "bits_per_dim_running", "bits_per_dim_population"):
            if metric in of_split and of_split[metric]["batch_norm"] is not None:
                figures.setdefault(split, {})[of_split[metric]["batch_norm"]] = of_split[metric]["value"]
    both = {split: modes for split, modes in figures.items() if len(modes) == 2}
    if not any(abs(modes["running"] - modes["population"]) > limit for modes in both.values()):
        return None
    described = ", ".join(
        f"{split} {modes['running']:.4g} with running and {modes['population']:.4g} with population statistics"
        for split, modes in both.items()
    )
    return (
        f"bits/dim depend on the batch-norm statistics: {described}; the moving averages lag behind the weights: "
        "read the population figures, or train longer at a lower rate"
    )
