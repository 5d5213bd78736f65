"""Every stream of random numbers follows from the seed: two seeds draw different numbers, one seed the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch

from flowbench.config.experiments import load_experiment
from flowbench.data.feed import _Plan
from flowbench.densities.noise import evaluation_noise, step_seed, training_noise
from flowbench.figures.samples import sample
from flowbench.forecasting.windows import WindowFeed
from flowbench.system.processes import place
from flowbench.tasks.density import DensityTask
from flowbench.tasks.forecast import ForecastTask
from flowbench.tasks.task import make_task
from flowbench.tuning.grid import GridByNumber
from flowbench.tuning.sampling import make_sampler

CPU = torch.device("cpu")
SEEDS = (0, 1, 2, 255, 256, 2**31 - 1)
FORECAST = ["data.protocol=ratio", "data.lookback=12", "data.horizon=6", "data.batch_size=32"]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("series") / "made.csv"
    values = np.random.default_rng(0).normal(size=(300, 1))
    dates = pd.date_range("2020-01-01", periods=len(values), freq="1h").astype(str)
    pd.DataFrame({"date": dates, "OT": values[:, 0]}).to_csv(path, index=False)
    return path


def forecaster(series: Path, seed: int, *overrides: str) -> ForecastTask:
    small = [*FORECAST, "model.hidden=4", f"data.csv={series}", f"seed={seed}", *overrides]
    task = make_task(load_experiment("etth/lstm2lstm-tuned", small), CPU)
    assert isinstance(task, ForecastTask)
    return task


def density(seed: int, *overrides: str) -> DensityTask:
    small = ["model.features=4", "model.residual_blocks=1", "data.batch_size=4", f"seed={seed}", *overrides]
    task = make_task(load_experiment("real_nvp/digits", small), CPU)
    assert isinstance(task, DensityTask)
    return task


def plan(seed: int) -> Any:
    return _Plan(count=60, batch_size=20, seed=seed, flip=True, crop=True, rank=0, ranks=1)


def first_weights(series: Path, seed: int) -> list[float]:
    return [parameter.flatten()[0].item() for parameter in forecaster(series, seed).model.parameters()]


def teacher_forcing(series: Path, seed: int) -> list[float]:
    """What a step's generator gives: the coins that decide where the true value is fed back."""
    task = forecaster(series, seed)
    task.batch(7)
    return torch.rand(32, 6, generator=task._generator).flatten().tolist()


def forced_forecast(series: Path, seed: int) -> list[float]:
    """A training step's forecast with the same weights and the same windows: only the coins differ."""
    task = forecaster(series, seed, "model.dropout=0")
    for parameter in task.model.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    task.batch(7)
    windows = torch.arange(32)
    history, future = task._windows.splits["train"].batch(windows)
    return task.model.training_forward(history, future, task._generator).flatten().tolist()


def dropout(series: Path, seed: int) -> list[float]:
    """One process draws from the global generator that `make_task` seeded."""
    forecaster(series, seed)
    return torch.nn.functional.dropout(torch.ones(64)).tolist()


def dropout_of_a_process(series: Path, seed: int) -> list[float]:
    torch.manual_seed(step_seed("process", seed, 3, 1))
    return torch.nn.functional.dropout(torch.ones(64)).tolist()


def images_of_a_batch(series: Path, seed: int) -> list[float]:
    return density(seed, "data.batch_size=8").batch(3)[0].flatten().tolist()


def noise_of_a_batch(series: Path, seed: int) -> list[float]:
    return density(seed).batch(3)[1].flatten().tolist()


def samples(series: Path, seed: int) -> list[float]:
    return sample(density(0).model.eval(), 2, 1.0, seed).images.flatten().tolist()


def trial(series: Path, seed: int) -> list[float]:
    experiment = load_experiment("real_nvp/digits-study", [f"study.seed={seed}", "study.sampler=random"])
    study = optuna.create_study(sampler=make_sampler(experiment))
    return [study.ask().suggest_float("rate", 0, 1) for _ in range(3)]


def grid(series: Path, seed: int) -> list[float]:
    points = [{"rate": float(number)} for number in range(40)]
    return [point["rate"] for point in GridByNumber(points, seed)._points]


STREAMS: dict[str, Callable[[Path, int], list[float]]] = {
    "first weights": first_weights,
    "order of images": lambda series, seed: plan(seed).draw(1).indices.tolist(),
    "batches of images": images_of_a_batch,
    "mirrored images": lambda series, seed: [plan(seed).draw(step).mirrored for step in range(30)],
    "crops": lambda series, seed: plan(seed).draw(1).places.flatten().tolist(),
    "training noise": lambda series, seed: training_noise(seed, 5, (2, 1, 4, 4), CPU).flatten().tolist(),
    "noise of population statistics": lambda series, seed: training_noise(
        seed, 5, (2, 1, 4, 4), CPU, stream="population"
    ).flatten().tolist(),
    "noise of a batch": noise_of_a_batch,
    "evaluation noise": lambda series, seed: evaluation_noise(seed, "test", [3], 0, (1, 4, 4)).flatten().tolist(),
    "order of windows": lambda series, seed: WindowFeed(
        forecaster(series, 0)._windows.splits["train"], batch_size=32, seed=seed
    ).indices(3).tolist(),
    "teacher forcing": teacher_forcing,
    "a step with teacher forcing": forced_forecast,
    "dropout": dropout,
    "dropout of one of several processes": dropout_of_a_process,
    "samples": samples,
    "trials": trial,
    "a grid's order": grid,
}  # fmt: skip


@pytest.mark.parametrize("stream", STREAMS)
def test_two_seeds_draw_different_numbers_and_one_seed_the_same(stream: str, series: Path) -> None:
    assert place() == (0, 1)
    drawn = [STREAMS[stream](series, seed) for seed in SEEDS]
    assert drawn[0] == STREAMS[stream](series, SEEDS[0])
    assert len({tuple(numbers) for numbers in drawn}) == len(SEEDS)


def test_the_steps_of_a_stream_differ_too_also_in_the_32_bits_that_torch_reads() -> None:
    words = {step_seed("teacher forcing", seed, step) % 2**32 for seed in range(40) for step in range(40)}
    assert len(words) == 1600
