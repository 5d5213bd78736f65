"""A training step of the report's LSTM2LSTM (batch 16, 64 → 24, 7 columns): ours against the original's way.

Run `pytest -n 0 benchmarks/test_lstm2lstm_epoch.py --benchmark-enable`; an epoch is 756 such steps. Both ways take
their samples too, in alternation on one machine: ours as gathered views, the original's from a Python list. It is
timed with its encoder as `nn.LSTM` and with LSTMCell steps in the encoder as well.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowbench.forecasting.models.lstm2lstm import FaithfulLSTM2LSTM, LSTM2LSTMConfig
from flowbench.forecasting.protocol import Part
from flowbench.forecasting.windows import WindowFeed, Windows

LOOKBACK, HORIZON, COLUMNS, BATCH = 64, 24, 7, 16


def make_model() -> Any:
    torch.manual_seed(0)
    config = LSTM2LSTMConfig(name="lstm2lstm", faithful=True)
    return config.build(lookback=LOOKBACK, horizon=HORIZON, inputs=COLUMNS, outputs=COLUMNS)


class StepByStep(nn.Module):
    """The original's forward pass with the parameters of our model."""

    def __init__(self, model: FaithfulLSTM2LSTM, cells: bool) -> None:
        super().__init__()
        self.model = model
        self.cells = cells

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.cells:
            encoded, (hiddens, _) = self.model.encoder(x)
            return encoded, hiddens[-1]
        rows = list(x.unbind(1))
        for weights in self.model.encoder.all_weights:
            hidden = cell = x.new_zeros(len(x), self.model.encoder.hidden_size)
            for t, row in enumerate(rows):
                hidden, cell = torch.lstm_cell(row, (hidden, cell), *weights)
                rows[t] = hidden
        return torch.stack(rows, 1), rows[-1]

    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        encoded, state = self.encode(x)
        output, outputs = x[:, -1], []
        for _ in range(HORIZON):
            weights = F.softmax(model.attention(torch.cat((state, output), 1)), dim=1).unsqueeze(1)
            _, state = model.cell(torch.bmm(weights, encoded).squeeze(1), (state, state))
            output = model.out(state)
            outputs.append(output)
        return torch.stack(outputs, 1)


def stepper(model: nn.Module, batch: Callable[[int], tuple[Tensor, Tensor]], fused: bool) -> Callable[[int], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005, fused=fused)

    def step(number: int) -> None:
        history, future = batch(number)
        optimizer.zero_grad()
        F.mse_loss(model(history), future).backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_is_faster_than_the_originals(benchmark: Any, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    values = torch.randn(2_000, COLUMNS, generator=torch.Generator().manual_seed(0))
    windows = Windows(values, Part(0, len(values)), LOOKBACK, HORIZON, COLUMNS)
    samples = [(values[i : i + LOOKBACK], values[i + LOOKBACK : i + LOOKBACK + HORIZON]) for i in range(len(windows))]
    feed = WindowFeed(windows, batch_size=BATCH, seed=0)

    def listed(number: int) -> tuple[Tensor, Tensor]:
        chosen = [samples[i] for i in feed.indices(number).tolist()]
        return torch.stack([torch.Tensor(x) for x, _ in chosen]), torch.stack([torch.Tensor(y) for _, y in chosen])

    ours = stepper(make_model(), feed.batch, fused=True)
    slow = {name: stepper(StepByStep(make_model(), name == "cells"), listed, False) for name in ("as_written", "cells")}
    times: dict[str, list[float]] = {name: [] for name in ("ours", *slow)}
    try:
        for number in range(25):
            for name, step in {"ours": ours, **slow}.items():
                start = time.perf_counter()
                step(number)
                times[name].append(time.perf_counter() - start)
        benchmark.pedantic(ours, args=(25,), rounds=20, warmup_rounds=2)
    finally:
        torch.set_num_threads(before)
    medians = {name: statistics.median(found[5:]) for name, found in times.items()}
    benchmark.extra_info["epoch_seconds"] = {name: 756 * median for name, median in medians.items()}
    benchmark.extra_info["ratio"] = {name: medians[name] / medians["ours"] for name in slow}
    assert medians["ours"] < medians["cells"]
