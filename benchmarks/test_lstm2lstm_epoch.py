"""Training steps of the report's LSTM2LSTM (batch 16, 64 → 24, 7 columns): ours against the original's way.

Run `pytest -n 0 benchmarks/test_lstm2lstm_epoch.py --benchmark-enable`; an epoch is 756 such steps. Both ways take
their samples too, each in a process of its own, in turns: ours as gathered views, the original's from a Python list. It
is timed with its encoder as `nn.LSTM` and with LSTMCell steps in the encoder as well.
"""

from typing import Any

import numpy as np
import pytest
import torch
from other_ways import Pass, Way, compare, megabytes, shown
from torch import Tensor, nn
from torch.nn import functional as F

from flowbench.config.schema import Optim
from flowbench.forecasting.models.lstm2lstm import FaithfulLSTM2LSTM, LSTM2LSTMConfig
from flowbench.forecasting.protocol import Part
from flowbench.forecasting.windows import WindowFeed, Windows
from flowbench.training.optimization import make_optimizer, take_step

LOOKBACK, HORIZON, COLUMNS, BATCH = 64, 24, 7, 16
STEPS_PER_EPOCH = 756
ROUNDS = 9
# In a row: the threads of the way that has just had its turn go on spinning for a while.
STEPS = 42
RATE = 0.005
ENCODERS = {"LSTMCell steps throughout": True, "nn.LSTM and LSTMCell steps": False}


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


def make_feed() -> tuple[Tensor, WindowFeed]:
    values = torch.randn(2_000, COLUMNS, generator=torch.Generator().manual_seed(0))
    windows = Windows(values, Part(0, len(values)), LOOKBACK, HORIZON, COLUMNS)
    return values, WindowFeed(windows, batch_size=BATCH, seed=0)


def ours() -> tuple[Pass, int]:
    """Steps as `flowbench train` takes them."""
    model, (_, feed) = make_model(), make_feed()
    parameters = list(model.parameters())
    optimizer = make_optimizer(parameters, Optim(name="adam", lr=RATE))

    def steps() -> None:
        for number in range(STEPS):
            history, future = feed.batch(number)
            loss = F.mse_loss(model(history), future)
            torch.autograd.backward(loss)
            take_step(optimizer, parameters, loss, None)

    return steps, sum(parameter.numel() for parameter in parameters)


def original(cells: bool) -> tuple[Pass, int]:
    model, (values, feed) = StepByStep(make_model(), cells), make_feed()
    ends = range(LOOKBACK, len(values) - HORIZON + 1)
    samples = [(values[end - LOOKBACK : end], values[end : end + HORIZON]) for end in ends]
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)

    def steps() -> None:
        for number in range(STEPS):
            chosen = [samples[i] for i in feed.indices(number).tolist()]
            history, future = (torch.stack([torch.Tensor(row) for row in part]) for part in zip(*chosen, strict=True))
            optimizer.zero_grad()
            F.mse_loss(model(history), future).backward()
            optimizer.step()

    return steps, sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_is_faster_than_the_originals(benchmark: Any, ratios: Any, threads: int, encoder: str) -> None:
    cells = (ENCODERS[encoder],)
    ways = [Way(ours), Way(original, cells), Way(original, cells, keeps_memory=False)]
    wall, work, facts = compare(ways, ROUNDS, threads)
    benchmark.pedantic(lambda: None, rounds=1)
    (our_size, our_memory), (their_size, their_memory), _ = facts
    assert our_size == their_size
    equal, untouched = work[1:] / work[0]
    benchmark.extra_info["epoch_seconds"] = (STEPS_PER_EPOCH / STEPS * np.median(wall, axis=1)).tolist()
    benchmark.extra_info["ratio"] = float(np.median(equal))
    row = (shown(equal), shown(untouched), megabytes(our_memory), megabytes(their_memory))
    ratios.append([f"LSTM2LSTM training step, {threads} threads", encoder, *row])
    assert np.median(equal) > 1
