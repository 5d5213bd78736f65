"""Which rows train, choose and test, and which the scaler is fitted on: the field's protocol and the report's."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.offsets import Tick

from flowbench.config.schema import ForecastData
from flowbench.errors import InputError
from flowbench.forecasting.series import Series
from flowbench.forecasting.steps import step_name

__all__ = ["SPLITS", "Part", "Scaler", "Split", "fit_scaler", "parts"]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Part:
    """Rows first … stop − 1 of a file, which the windows of one split may touch, history included."""

    first: int
    stop: int

    def windows(self, lookback: int, horizon: int) -> int:
        """Return how many windows of lookback + horizon rows lie inside."""
        return max(0, self.stop - self.first - lookback - horizon + 1)


@dataclass(frozen=True)
class Scaler:
    """Standardization per column: (x − mean) / std, std with ddof 0; a constant column is divided by 1."""

    columns: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    constant: tuple[str, ...] = ()
    """The columns that do not vary, but for rounding, in the rows it was fitted on."""

    @property
    def notes(self) -> list[str]:
        """What must be said beside a figure on normalized values."""
        if not self.constant:
            return []
        names = ", ".join(self.constant)
        return [f"constant in the rows that the scaler was fitted on, so divided by 1, not by a deviation: {names}"]

    def scale(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map original units to normalized ones, (…, columns)."""
        scaled: NDArray[np.float64] = (values - np.array(self.mean)) / np.array(self.std)
        return scaled

    def unscale(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map normalized values back to original units, (…, columns)."""
        original: NDArray[np.float64] = values * np.array(self.std) + np.array(self.mean)
        return original

    def select(self, columns: tuple[str, ...]) -> "Scaler":
        """Return the scaler of these of its columns, in this order."""
        places = [self.columns.index(column) for column in columns]
        constant = tuple(column for column in columns if column in self.constant)
        return Scaler(columns, tuple(self.mean[i] for i in places), tuple(self.std[i] for i in places), constant)


def parts(series: Series, data: ForecastData) -> dict[Split, Part]:
    """Return the rows of each split under `data.protocol`.

    - `informer` (Zhou et al. 2021, Informer, section 5.1, and their code): 12/4/4 months of 30 days train, validate and
      test; windows of the last two look back across the border.
    - `report`: the first 15 % of the rows test, the next 15 % validate, the last 70 % train; windows stay inside.
    - `ratio`: the first 70 % train, the last 20 % test, what lies between validates; windows look back across.

    Raises:
        InputError: the file is too short for the protocol (the message says how many rows are needed), or the windows
            are longer than the training part; `informer`, and the file has less than a row a day.
    """
    if data.protocol == "informer" and not _has_rows_each_day(series):
        raise InputError(
            f"{series.path}: data.protocol informer counts months of 30 days, but the rows' step is "
            f"{step_name(series.step)}: use data.protocol=ratio"
        )
    rows, day, lookback, horizon = len(series), series.rows_per_day, data.lookback, data.horizon
    found = _borders(data, rows, day)
    if found["test"].stop <= rows and _each_has_a_window(found, lookback, horizon):
        return found
    elsewhere = "" if data.protocol == "ratio" else ", or data.protocol=ratio (70/10/20 % of any file)"
    fixed = 600 * day if data.protocol == "informer" else None
    if fixed is not None and rows >= fixed:
        raise InputError(
            f"data.lookback {lookback} + data.horizon {horizon} rows do not fit into the informer protocol's parts "
            f"({360 * day:,} rows for training, {120 * day:,} for validation and test): choose shorter ones{elsewhere}"
        )
    needed = fixed or rows
    while not _each_has_a_window(_borders(data, needed, day), lookback, horizon):
        needed += 1
    raise InputError(
        f"{series.path}: {rows:,} rows, but data.protocol {data.protocol} with data.lookback {lookback} and "
        f"data.horizon {horizon} needs {needed:,} rows: choose shorter ones{elsewhere}"
    )


def fit_scaler(series: Series, data: ForecastData) -> Scaler:
    """Fit mean and population standard deviation per column on the rows that the protocol says.

    `informer` and `ratio`: the training rows. `report`: the whole file, test rows included, as the report's code does:
    a leak, which tables mark. A column that is constant up to rounding is divided by 1.
    """
    rows = series.values if data.protocol == "report" else series.values[: parts(series, data)["train"].stop]
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    constant = _is_constant(mean, std, len(rows))
    return Scaler(
        series.columns,
        tuple(mean.tolist()),
        tuple(np.where(constant, 1.0, std).tolist()),
        tuple(name for name, same in zip(series.columns, constant, strict=True) if same),
    )


def _is_constant(mean: NDArray[np.float64], std: NDArray[np.float64], rows: int) -> NDArray[np.bool_]:
    """Say which deviations may be rounding alone: those within the error bound of a two-pass variance.

    var ≤ n·eps·var + (n·mean·eps)² (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance",
    table 1), scikit-learn's rule for its scalers: the mean of 420 times 0.1 is not 0.1 in floating point.
    """
    eps, variance = np.finfo(np.float64).eps, std**2
    constant: NDArray[np.bool_] = variance <= rows * eps * variance + (rows * mean * eps) ** 2
    return constant


def _has_rows_each_day(series: Series) -> bool:
    return isinstance(series.step, Tick) and pd.Timedelta(series.step) <= pd.Timedelta(days=1)


def _borders(data: ForecastData, rows: int, day: int) -> dict[Split, Part]:
    back = data.lookback
    if data.protocol == "report":
        first, second = int(rows * 0.15), int(rows * 0.3)
        return {"train": Part(second, rows), "validation": Part(first, second), "test": Part(0, first)}
    if data.protocol == "informer":
        train, validation, test = 360 * day, 480 * day, 600 * day
    else:
        train, validation, test = int(rows * 0.7), rows - int(rows * 0.2), rows
    return {
        "train": Part(0, train),
        "validation": Part(max(0, train - back), validation),
        "test": Part(max(0, validation - back), test),
    }


def _each_has_a_window(borders: dict[Split, Part], lookback: int, horizon: int) -> bool:
    return all(part.windows(lookback, horizon) > 0 for part in borders.values())
