"""Stuck sensors: columns that keep one value over a day or more, and the windows that these runs touch."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowbench.config.metric_words import shares_in_words
from flowbench.config.schema import ForecastData
from flowbench.errors import InputError
from flowbench.forecasting.protocol import parts
from flowbench.forecasting.series import Series

__all__ = ["ConstantRuns", "StuckSensors", "find_constant_runs", "in_constant_runs", "stuck_sensors"]

MIN_ROWS = 12
"""Least rows of a run: in a file of fewer a day, a few equal values are no sign of a stuck sensor."""


@dataclass(frozen=True, eq=False)
class ConstantRuns:
    """Where the rows that a split forecasts are stuck."""

    share: NDArray[np.float64]
    """Part of the rows that lies in constant runs, (columns,)."""
    free: NDArray[np.bool_]
    """Whether the future of a window touches no constant run in a column, (windows, columns)."""

    def first(self, number: int) -> "ConstantRuns":
        """Return the same of the first so many windows; the shares stay those of the split."""
        return ConstantRuns(self.share, self.free[:number])


@dataclass(frozen=True)
class StuckSensors:
    """Part of the rows of each column that lies in constant runs; columns without any are left out."""

    all: dict[str, float]
    test: dict[str, float]
    protocol: str
    """Whose test rows they are."""

    @property
    def lines(self) -> list[str]:
        """The same for people; no line where nothing is stuck."""
        of = {"all rows": self.all, f"the {self.protocol} protocol's test rows": self.test}
        what = f"constant runs (one value over a day or more, {MIN_ROWS} rows at least)"
        return [f"{what} in {rows}: {shares_in_words(shares)}" for rows, shares in of.items() if shares]


def in_constant_runs(values: NDArray[np.float64], rows_per_day: int) -> NDArray[np.bool_]:
    """Mark the values that lie in a run of one value over a day or more, column by column.

    Args:
        values: (rows, columns).
        rows_per_day: of the file; a run has at least so many rows, and at least 12.
    """
    stuck = np.zeros(values.shape, dtype=np.bool_)
    for column in range(values.shape[1]):
        changes = np.flatnonzero(values[1:, column] != values[:-1, column]) + 1
        lengths = np.diff(np.concatenate(([0], changes, [len(values)])))
        stuck[:, column] = np.repeat(lengths >= max(rows_per_day, MIN_ROWS), lengths)
    return stuck


def find_constant_runs(values: NDArray[np.float64], rows_per_day: int, horizon: int) -> ConstantRuns | None:
    """Find the constant runs in the rows that a split forecasts; None: there are none.

    Args:
        values: of the columns that are forecast, from the first window's first step to the last one's last.
        rows_per_day: of the file.
        horizon: rows of a window's future.
    """
    stuck = in_constant_runs(values, rows_per_day)
    if not stuck.any():
        return None
    before = np.concatenate((np.zeros((1, stuck.shape[1]), dtype=np.int64), stuck.cumsum(axis=0)))
    return ConstantRuns(stuck.mean(axis=0), before[horizon:] == before[:-horizon])


def stuck_sensors(series: Series, protocol: Literal["informer", "ratio"]) -> StuckSensors:
    """Say how much of each column is stuck, in the whole file and in the rows that a protocol tests on."""
    shortest = ForecastData(csv=str(series.path), protocol=protocol, lookback=1, horizon=1)
    try:
        part = parts(series, shortest)["test"]
        test = _shares(series, slice(part.first + 1, part.stop))
    except InputError:  # too short for any test: what there is of it is still told
        test = {}
    return StuckSensors(_shares(series, slice(None)), test, protocol)


def _shares(series: Series, rows: slice) -> dict[str, float]:
    share = in_constant_runs(series.values[rows], series.rows_per_day).mean(axis=0)
    return {name: float(part) for name, part in zip(series.columns, share, strict=True) if part > 0}
