"""Timing passes beside their floors, in alternation, into one result file."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from flowbench.config.schema import Experiment
from flowbench.evaluation.flops import MOST_COUNTED, flops_per_item
from flowbench.system.device import prepare_to_compute
from flowbench.system.environment import describe_environment
from flowbench.tasks.compilation import forget_compiled
from flowbench.throughput.convolutions import Floor, record
from flowbench.throughput.device import Device
from flowbench.throughput.passes import PASSES, can_be_compiled, make_subject, subject_of
from flowbench.throughput.statistics import Samples, interval

__all__ = ["Prepared", "alternate", "figure", "flops_per_image", "measure", "measure_pass", "prepare_pass"]

MIN_SAMPLE_SECONDS = 0.1
"""A shorter pass is repeated within a sample: below this, what disturbs a machine weighs too much."""


def measure(
    experiments: Sequence[Experiment[Any, Any]],
    *,
    passes: Sequence[str],
    batches: Sequence[int],
    device: torch.device,
    repeats: int,
    report: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Time every pass of every experiment at every batch size; return the content of a result file.

    Args:
        experiments: of kind density; precision and compilation are those of their `train:` section.
        passes: of `PASSES`.
        batches: batch sizes.
        device: where.
        repeats: samples of each figure.
        report: called with each result as soon as it is there.

    Raises:
        InputError: see `make_subject`.
    """
    results = []
    for experiment in experiments:
        for batch in batches:
            for name in passes:
                results.append(measure_pass(experiment, name, batch, device, repeats))
                report(results[-1])
    environment = describe_environment(device) | {"time": datetime.now(UTC).isoformat(timespec="seconds")}
    return {"schema": 1, "environment": environment, "results": results}


def measure_pass(
    experiment: Experiment[Any, Any],
    name: str,
    batch: int,
    device: torch.device,
    repeats: int,
    shape: tuple[int, int, int] | None = None,
) -> dict[str, Any]:
    """Time one pass in alternation with its own convolutions; return an entry of a result file.

    Args:
        experiment: of kind density.
        name: of `PASSES`.
        batch: images in a batch.
        device: where.
        repeats: samples of each figure.
        shape: (channels, height, width); None: that of the experiment's data set.
    """
    clock = Device(device)
    prepared = prepare_pass(experiment, name, batch, clock, shape)
    runs: list[Callable[[], object]] = [prepared.run]
    if prepared.floor:
        runs.append(prepared.floor)
    wall, work = alternate(runs, clock, repeats)
    return prepared.result(wall[0], work[0] / work[1] if prepared.floor else None)


@dataclass(frozen=True)
class Prepared:
    """A pass that has run once, its floor, and what is known of both without timing."""

    run: Callable[[], object]
    floor: Floor
    facts: dict[str, Any]

    def result(self, seconds: Samples, floor_ratios: Samples | None) -> dict[str, Any]:
        """Return the entry of a result file for these times of a pass (wall's clock) and ratios to its floor."""
        known = ("experiment", "pass", "batch", "precision", "compiled")
        return {
            **{key: self.facts[key] for key in known},
            "images_per_second": figure(self.facts["batch"] / seconds),
            "floor_ratio": None if floor_ratios is None else figure(floor_ratios),
            **{key: value for key, value in self.facts.items() if key not in known},
        }


def prepare_pass(
    experiment: Experiment[Any, Any], name: str, batch: int, clock: Device, shape: tuple[int, int, int] | None = None
) -> Prepared:
    """Make a pass ready to be timed and measure its memory; arguments as in `measure_pass`.

    One at a time: what was compiled for an earlier one is forgotten.
    """
    prepare_to_compute()
    forget_compiled()
    subject = make_subject(experiment, batch, clock.device, shape)
    compiled = experiment.train.compile and can_be_compiled(subject, name)
    # A pass of its own, gone at once: its optimizer's state must not lie beside that of the one that is measured.
    calls = record(PASSES[name](subject, compiled=False))
    run = PASSES[name](subject, compiled=compiled)
    run()  # optimizer states are made, code is compiled, caches are filled
    memory = clock.peak_memory(run)
    facts = {
        "experiment": experiment.name,
        "pass": name,
        "batch": batch,
        "precision": experiment.train.precision,
        "compiled": compiled,
        "parameters": subject.parameters,
        "flops_per_image": flops_per_image(experiment, name, subject.model.image_shape),
        "peak_memory_bytes": memory,
    }
    floor = Floor(calls, clock.device, clock.synchronize, clock.as_graph if compiled else None)
    return Prepared(run, floor, facts)


def alternate(runs: Sequence[Callable[[], object]], clock: Device, repeats: int) -> tuple[Samples, Samples]:
    """Time functions in turn, after a warm-up of each: what disturbs the machine disturbs all of them.

    Returns:
        Seconds a call on the wall's clock and of the device's own work (`Device.time`), both (len(runs), repeats).
    """
    loops = [math.ceil(MIN_SAMPLE_SECONDS / max(clock.time(run)[0], 1e-6)) for run in runs]
    rows = [[clock.time(run, count) for run, count in zip(runs, loops, strict=True)] for _ in range(repeats)]
    wall, work = np.array(rows).transpose(2, 1, 0)
    return wall, work


def flops_per_image(experiment: Experiment[Any, Any], name: str, shape: tuple[int, int, int] | None = None) -> int:
    """Count a pass as `flops` counts everything: on a few images, whatever the batch that is timed."""
    # The count is the same in bfloat16, which a CPU multiplies ten times as slowly where oneDNN does not.
    exact = experiment.model_copy(update={"train": experiment.train.model_copy(update={"precision": 32})})
    subject = subject_of(exact, MOST_COUNTED, torch.device("cpu"), shape)

    runs = {
        size: PASSES[name](replace(subject, images=subject.images[:size]), compiled=False)
        for size in (MOST_COUNTED - 1, MOST_COUNTED)
    }
    runs[MOST_COUNTED]()
    (flops,) = flops_per_item(lambda size: runs[size]())
    return flops


def figure(samples: Samples) -> dict[str, Any]:
    """Return the median of samples with its interval, and the samples."""
    median, low, high = interval(samples)
    return {"median": median, "low": low, "high": high, "samples": samples.tolist()}
