"""Training steps of linear forecasters on ETTh1 (lookback 336, batch 32, 7 columns): ours against their authors' way.

Run `pytest -n 0 benchmarks/test_linear_epoch.py --benchmark-enable`. Theirs is the loop of LTSF-Linear (Zeng et al.
2023) as one writes it down: a data set that cuts a window at each index, with the dates' features beside it, a
DataLoader that collates them, a loss that is read at every step. Both take their samples too, each in a process of its
own, in turns. The bound is what no step can do without, and nothing else: windows gathered, the products of float32
there and back, torch's fused Adam. Their time over the bound's is the most that could be reached.
"""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from other_ways import Pass, Way, compare, megabytes, shown
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from flowbench.config.experiments import load_experiment
from flowbench.config.schema import Optim
from flowbench.data.series import series_path
from flowbench.runs.folder import RunFolder
from flowbench.tasks.task import make_task
from flowbench.training.loop import _step
from flowbench.training.optimization import make_optimizer
from flowbench.training.session import Session
from flowbench.training.window import Window

LOOKBACK, LABEL, COLUMNS, BATCH = 336, 48, 7, 32
TRAINING_ROWS = 12 * 30 * 24
ROUNDS = 9
STEPS = 100
TARGET = 4
CPU = torch.device("cpu")


def ours(model: str, horizon: int) -> tuple[Pass, int]:
    """Steps as `flowbench train` takes them."""
    experiment = load_experiment(f"etth/{model}", [f"data.horizon={horizon}"])
    task = make_task(experiment, CPU)
    session = Session(experiment, RunFolder(Path("not-written")), task, CPU, None, None)
    task.prepare()

    def steps() -> None:
        window = Window()
        for _ in range(STEPS):
            window.add(*_step(session, task.objective))
            session.step += 1
            if session.step % experiment.train.log_every == 0:
                window.means()
                window = Window()

    return steps, sum(parameter.numel() for parameter in task.model.parameters())


class HourlyWindows(Dataset[Any]):
    """A window of rows at each index, its label part overlapping the history, and the hour, day and month of each."""

    def __init__(self, values: NDArray[np.float64], stamps: NDArray[np.float64], horizon: int) -> None:
        self.values, self.stamps, self.horizon = values, stamps, horizon

    def __getitem__(self, index: int) -> tuple[NDArray[np.float64], ...]:
        end = index + LOOKBACK
        begin = end - LABEL
        after = begin + LABEL + self.horizon
        return self.values[index:end], self.values[begin:after], self.stamps[index:end], self.stamps[begin:after]

    def __len__(self) -> int:
        return len(self.values) - LOOKBACK - self.horizon + 1


class NLinear(nn.Module):
    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.map = nn.Linear(LOOKBACK, horizon)

    def forward(self, x: Tensor) -> Tensor:
        last = x[:, -1:, :].detach()
        return self.map((x - last).permute(0, 2, 1)).permute(0, 2, 1) + last


class DLinear(nn.Module):
    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.average = nn.AvgPool1d(25, stride=1)
        self.seasonal, self.trend = nn.Linear(LOOKBACK, horizon), nn.Linear(LOOKBACK, horizon)

    def forward(self, x: Tensor) -> Tensor:
        padded = torch.cat((x[:, :1].repeat(1, 12, 1), x, x[:, -1:].repeat(1, 12, 1)), dim=1)
        trend = self.average(padded.permute(0, 2, 1)).permute(0, 2, 1)
        parts = self.seasonal((x - trend).permute(0, 2, 1)), self.trend(trend.permute(0, 2, 1))
        return sum(parts).permute(0, 2, 1)


MODELS = {"nlinear": NLinear, "dlinear": DLinear}


def theirs(name: str, horizon: int) -> tuple[Pass, int]:
    values = np.loadtxt(series_path("etth1"), delimiter=",", skiprows=1, usecols=range(1, 1 + COLUMNS))[:TRAINING_ROWS]
    values = (values - values.mean(0)) / values.std(0)
    hours = np.arange(len(values))
    stamps = np.stack([hours % 24, hours // 24 % 7, hours // 24 % 31, hours // 720 % 12], axis=1).astype(np.float64)
    windows = HourlyWindows(values, stamps, horizon)
    loader = DataLoader(windows, BATCH, shuffle=True, drop_last=True)
    model, criterion = MODELS[name](horizon), nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)

    def steps() -> None:
        losses = []
        model.train()
        for x, y, x_mark, y_mark in islice(loader, STEPS):
            optimizer.zero_grad()
            x, y = x.float().to(CPU), y.float().to(CPU)
            x_mark, y_mark = x_mark.float().to(CPU), y_mark.float().to(CPU)
            outputs = model(x)[:, -horizon:, :]
            loss = criterion(outputs, y[:, -horizon:, :].to(CPU))
            losses.append(loss.item())
            loss.backward()
            optimizer.step()

    return steps, sum(parameter.numel() for parameter in model.parameters())


def bound(name: str, horizon: int) -> tuple[Pass, int]:
    """Gather windows, multiply there and back, move the weights by what came back."""
    rows = torch.randn(COLUMNS, TRAINING_ROWS).t()
    histories, futures = rows[:-horizon].unfold(0, LOOKBACK, 1), rows[LOOKBACK:].unfold(0, horizon, 1)
    model = MODELS[name](horizon)
    maps = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer(model.parameters(), Optim(lr=0.005))
    order = torch.randperm(len(futures)).split(BATCH)[:STEPS]

    @torch.no_grad()
    def steps() -> None:
        for places in order:
            x = histories.index_select(0, places).flatten(0, 1)
            y = futures.index_select(0, places).flatten(0, 1)
            for each in maps:
                torch.addmm(each.bias, x, each.weight.t())
                torch.mm(y.t(), x, out=each.weight.grad)
            optimizer.step()

    return steps, sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("horizon", [96, 720])
@pytest.mark.parametrize("model", MODELS)
def test_a_step_is_four_times_as_fast_as_the_authors(benchmark: Any, ratios: Any, model: str, horizon: int) -> None:
    how = (model, horizon)
    ways = [Way(ours, how), Way(theirs, how), Way(theirs, how, keeps_memory=False), Way(bound, how)]
    _, work, facts = compare(ways, ROUNDS, torch.get_num_threads())
    benchmark.pedantic(lambda: None, rounds=1)
    (_, our_memory), (_, their_memory), *_ = facts
    assert len({size for size, _ in facts}) == 1
    equal, untouched = work[1:3] / work[0]
    reachable = work[1] / work[3]
    benchmark.extra_info.update(
        ratio=float(np.median(equal)),
        reachable=float(np.median(reachable)),
        milliseconds=(1000 / STEPS * np.median(work, axis=1)).tolist(),
    )
    row = (shown(equal), shown(untouched), megabytes(our_memory), megabytes(their_memory))
    ratios.append([f"{model} training step, horizon {horizon}", "LTSF-Linear's loop", *row])
    ratios.append(["  at most, by its products", "LTSF-Linear's loop", shown(reachable), "", "", ""])
    assert np.median(equal) > TARGET, f"by its products alone it would be {np.median(reachable):.2f}"
