"""What an image costs in each pass of a model: operations, and time beside the other passes of the same model."""

from typing import Any

import torch

from flowbench.config.schema import Experiment
from flowbench.system.environment import describe_environment
from flowbench.throughput.device import Device
from flowbench.throughput.measurement import alternate, figure, flops_per_image
from flowbench.throughput.passes import PASSES, passes_of, subject_of

__all__ = ["measure_costs"]

REPEATS = 5


def measure_costs(experiment: Experiment[Any, Any], device: torch.device) -> dict[str, Any]:
    """Return the content of a `costs.json`; on a CPU call it with one thread: processor time is what counts.

    `passes` holds, by name, `flops_per_image` and `images_per_second` (median, low, high, samples), of the passes that
    the model has: one that is fitted in closed form is not trained.

    Args:
        experiment: of kind density; it is timed uncompiled at its training batch size.
        device: where.

    Raises:
        InputError: images of unknown size.
    """
    batch = experiment.data.batch_size
    names = passes_of(subject_of(experiment, 1, device))
    # A subject for each: what one pass does to the weights or the mode of a model is not the others' to pay for.
    runs = [PASSES[name](subject_of(experiment, batch, device), compiled=False) for name in names]
    for run in runs:
        run()
    _, work = alternate(runs, Device(device), REPEATS)
    return {
        "schema": 1,
        "batch": batch,
        "environment": describe_environment(device),
        "passes": {
            name: {
                "flops_per_image": flops_per_image(experiment, name),
                "images_per_second": figure(batch / seconds),
            }
            for name, seconds in zip(names, work, strict=True)
        },
    }
