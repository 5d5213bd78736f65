"""One process that takes a few real training steps of an experiment and says what they cost: JSON on stdout.

`python -m flowbench.planning.probe CONFIG.yaml SECONDS`. A process of its own, since the most memory that a process
ever took cannot be measured twice. Images are random: their content costs nothing.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowbench.config.experiments import load_experiment
from flowbench.config.schema import Experiment
from flowbench.data import Images
from flowbench.data.feed import channels_first
from flowbench.data.images import FixedPixels, image_format
from flowbench.densities.model import DensityModel
from flowbench.densities.noise import training_noise
from flowbench.evaluation.likelihood import evaluate
from flowbench.evaluation.reported import Setting
from flowbench.evaluation.weights import WeightAverage
from flowbench.system.device import default_device
from flowbench.system.environment import device_name
from flowbench.tasks.density import build_density
from flowbench.tasks.hand_derived import descend
from flowbench.tasks.objectives import density_objective
from flowbench.tasks.task import make_task
from flowbench.training.opposition import Opposition
from flowbench.training.optimization import make_optimizer, take_step

__all__ = ["measure"]

WARM_UP = 2
MOST_STEPS = 30
EVALUATED = 256


def measure(experiment: Experiment[Any, Any], seconds: float) -> dict[str, Any]:
    """Take real steps for about `seconds`, evaluate one batch; return the costs.

    Returns:
        `step_seconds`; `step_cpu_seconds`, what the process computed in it; `item_seconds`, of one image under one
        draw, or one window, in evaluation; `peak_bytes`, the most memory that the process took (on a GPU: that torch
        held); `steps`, that were timed; `device` and `device_type`, its name and kind; `threads`.
    """
    device = default_device()
    torch.manual_seed(experiment.seed)
    if experiment.kind == "density":
        model, (objective, opponent), batch, evaluation, items = _density(experiment, device)
    else:
        model, (objective, opponent), batch, evaluation, items = _forecast(experiment, device)
    opposition = Opposition(opponent, device) if opponent else None
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train()
    times, computed = _steps(experiment, model, objective, opposition, batch, seconds) if parameters else ([0.0], [0.0])
    started = time.perf_counter()
    evaluation()
    on_gpu = device.type == "cuda"
    # What a CUDA graph computes with is held, but not allocated anew when it is replayed.
    peak = torch.cuda.max_memory_reserved() if on_gpu else _resident_bytes()
    return {
        "step_seconds": median(times),
        "step_cpu_seconds": median(computed),
        "item_seconds": (time.perf_counter() - started) / items,
        "peak_bytes": peak,
        "steps": len(times),
        "device": device_name(device),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
    }


def _steps(
    experiment: Experiment[Any, Any],
    model: nn.Module,
    objective: nn.Module,
    opposition: Opposition | None,
    batch: Callable[[int], tuple[Tensor, ...]],
    seconds: float,
) -> tuple[list[float], list[float]]:
    """Return the seconds of each step, by the clock and of this process's processors."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(parameters, experiment.optim)
    average = WeightAverage(model, experiment.train.ema) if experiment.train.ema else None
    times: list[float] = []
    computed: list[float] = []
    begun = time.perf_counter()
    for step in range(WARM_UP + MOST_STEPS):
        started, before = time.perf_counter(), time.process_time()
        items = batch(step)
        if opposition:
            opposition.train(items)
        loss, _ = descend(objective, items)
        take_step(optimizer, parameters, loss, experiment.optim.clip_norm)
        del loss  # as in a training: its graph does not lie beside the next one
        if average:
            average.update(step)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        computed.append(time.process_time() - before)
        if len(times) > WARM_UP and time.perf_counter() - begun > seconds:
            break
    # The first steps find their algorithms and fill the allocator's pools.
    return times[WARM_UP:], computed[WARM_UP:]


def _resident_bytes() -> int:
    """Return the most memory that this process has held: macOS counts it in bytes, Linux in KiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _density(experiment: Experiment[Any, Any], device: torch.device) -> Any:
    (channels, height, width), levels = image_format(experiment.data)
    model: DensityModel = build_density(experiment, {"shape": [channels, height, width], "levels": levels}).to(device)
    size = experiment.data.batch_size
    values = np.random.default_rng(0).integers(
        levels, size=(max(size, EVALUATED), height, width, channels), dtype=np.uint8
    )
    images = Images("random", "train", levels, "", "unverified", FixedPixels(values))
    some = channels_first(torch.from_numpy(values[:size]).to(device))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return some, training_noise(experiment.seed, step, (size, *model.noise_shape), device, distribution=model.noise)

    def evaluation() -> None:
        setting = Setting(batch_norm="running", other_mode=False)
        evaluate(model, images.subset(np.arange(EVALUATED)), setting)

    if not model.fit([some.cpu()]):
        model.initialize(*batch(0))
    objectives = density_objective(experiment, model, compiled=experiment.train.compile)
    return model, objectives, batch, evaluation, EVALUATED


def _forecast(experiment: Experiment[Any, Any], device: torch.device) -> Any:
    task = make_task(experiment, device)
    task.prepare()
    return (
        task.model,
        (task.objective, task.opponent),
        task.batch,
        lambda: task.validate(None),
        task.data["windows"]["validation"],
    )


if __name__ == "__main__":
    print(json.dumps(measure(load_experiment(sys.argv[1]), float(sys.argv[2]))))
