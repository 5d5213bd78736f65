"""Windows of history and future as views of one tensor, and the order in which training sees them."""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowbench.config.schema import ForecastData
from flowbench.errors import InputError, did_you_mean
from flowbench.forecasting.constant_runs import ConstantRuns, find_constant_runs
from flowbench.forecasting.protocol import Part, Scaler, Split, fit_scaler, parts
from flowbench.forecasting.series import Series

__all__ = ["ForecastWindows", "WindowFeed", "Windows", "input_columns", "open_windows", "target_columns"]


class Windows:
    """Every window of lookback + horizon rows inside a part of a file, without a copy of any.

    Args:
        values: normalized, (rows, inputs) on the device; the last `outputs` columns are forecast.
        part: the rows that windows may touch.
        lookback: rows of history in a window.
        horizon: rows of future in a window.
        outputs: columns to forecast.
        runs: where these are stuck in the rows that are forecast; None: nowhere.
    """

    def __init__(
        self,
        values: Tensor,
        part: Part,
        lookback: int,
        horizon: int,
        outputs: int,
        runs: ConstantRuns | None = None,
    ) -> None:
        rows = values[part.first : part.stop]
        self.first_origin = part.first + lookback
        """Row of the file at which window 0's future starts; window i's starts i rows later."""
        self.histories = rows[: len(rows) - horizon].unfold(0, lookback, 1)
        """(windows, inputs, lookback): a view."""
        self.futures = rows[lookback:, rows.shape[1] - outputs :].unfold(0, horizon, 1)
        """(windows, outputs, horizon): a view."""
        self.runs = runs

    def __len__(self) -> int:
        return len(self.histories)

    def first(self, number: int | None) -> "Windows":
        """Return the first so many windows, or all of them; None: all."""
        if number is None or number >= len(self):
            return self
        part = copy(self)
        part.histories, part.futures = self.histories[:number], self.futures[:number]
        part.runs = None if self.runs is None else self.runs.first(number)
        return part

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return history (batch, lookback, inputs) and future (batch, horizon, outputs), gathered on the device."""
        places = indices.to(self.histories.device)
        # Of columns whose rows lie together these are copies of memory: an index by a tensor takes four times as long.
        history, future = (view.index_select(0, places) for view in (self.histories, self.futures))
        return history.transpose(1, 2), future.transpose(1, 2)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every window once, in order; the last batch may be smaller."""
        for start in range(0, len(self), batch_size):
            here = slice(start, start + batch_size)
            yield self.histories[here].transpose(1, 2), self.futures[here].transpose(1, 2)


class WindowFeed:
    """Shuffled training batches: step `s` of epoch `e` is a function of (seed, e, s) alone, so resuming is exact.

    Each epoch has another permutation; what does not fill a batch at its end is left out of that epoch.

    Args:
        windows: what to feed.
        batch_size: windows of the global batch, over all ranks; at most all windows.
        seed: of the order.
        rank: which part of the global batch is this process's.
        ranks: number of processes; the batch must divide among them.
    """

    def __init__(self, windows: Windows, *, batch_size: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.windows = windows
        self.batch_size = min(batch_size, len(windows))
        if self.batch_size % ranks:
            raise InputError(f"data.batch_size: {self.batch_size} does not divide among {ranks} processes")
        self.local = self.batch_size // ranks
        """Windows of a batch that are this process's."""
        self._first = rank * self.local
        self.steps_per_epoch = len(windows) // self.batch_size
        self._seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        """Return this process's windows of a step counted from the start of training, int64 (local,)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:  # a cache of the current epoch's order, nothing more
            generator = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
            self._order, self._epoch = torch.from_numpy(generator.permutation(len(self.windows))), epoch
        first = place * self.batch_size + self._first
        return self._order[first : first + self.local]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return history and future of a step, as `Windows.batch`."""
        return self.windows.batch(self.indices(step))


@dataclass(frozen=True, eq=False)
class ForecastWindows:
    """A file's windows by split under one scaler."""

    series: Series
    """The inputs' columns, in the model's order: the targets are the last ones."""
    scaler: Scaler
    """Of the inputs' columns; fitted on this file, or another's."""
    targets: tuple[str, ...]
    splits: dict[Split, Windows]


def input_columns(columns: tuple[str, ...], data: ForecastData) -> tuple[str, ...]:
    """Return the columns that a model sees, the targets last: M all in the file's order, S the target, MS all."""
    if data.features == "M":
        return columns
    if data.target not in columns:
        raise InputError(f"data.target: no column {data.target!r}{did_you_mean(data.target, columns)}")
    others = tuple(column for column in columns if column != data.target)
    return (data.target,) if data.features == "S" else (*others, data.target)


def target_columns(columns: tuple[str, ...], data: ForecastData) -> tuple[str, ...]:
    """Return the columns that a model forecasts: M all, S and MS the target."""
    return columns if data.features == "M" else (data.target,)


def open_windows(
    series: Series, data: ForecastData, *, device: torch.device | str = "cpu", scaler: Scaler | None = None
) -> ForecastWindows:
    """Scale a series and lay windows over it.

    Args:
        series: the whole file.
        data: protocol, lookback, horizon, features and target.
        device: where the one tensor of values lives.
        scaler: of the training file, to test on another one; None: fitted on this series as the protocol says.

    Raises:
        InputError: a column is missing, or the file is too short (the message says how many rows are needed).
    """
    if scaler is None:
        scaler = fit_scaler(series, data)
        inputs = input_columns(series.columns, data)
    else:
        inputs = input_columns(scaler.columns, data)
    targets = target_columns(inputs, data)
    chosen, scaler = series.select(inputs), scaler.select(inputs)
    # Each column's rows lie together, as a window has them.
    columns = torch.from_numpy(scaler.scale(chosen.values)).T.contiguous()
    values = columns.to(device=device, dtype=torch.float32).T
    outputs, splits = series.select(targets).values, {}
    for split, part in parts(series, data).items():
        forecast = outputs[part.first + data.lookback : part.stop]
        runs = find_constant_runs(forecast, series.rows_per_day, data.horizon)
        splits[split] = Windows(values, part, data.lookback, data.horizon, len(targets), runs)
    return ForecastWindows(chosen, scaler, targets, splits)
