"""A multivariate series from a CSV file: a date column at regular steps and numeric columns, wholly checked."""

import csv
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flowbench.errors import InputError, did_you_mean

__all__ = ["Series", "read_series"]

_DATE_NAMES = ("date", "datetime", "timestamp", "time")


@dataclass(frozen=True, eq=False)
class Series:
    """Values of named columns at regular dates."""

    dates: pd.DatetimeIndex
    values: NDArray[np.float64]
    """(rows, columns), original units, finite."""
    columns: tuple[str, ...]
    path: Path
    sha256: str
    """Of the file's bytes."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def step(self) -> pd.Timedelta:
        """Time from row to row."""
        return pd.Timedelta(self.dates[1] - self.dates[0])

    @property
    def rows_per_day(self) -> int:
        """Rows in 24 hours, at least 1: 24 for an hourly file, 96 for a 15-minute one."""
        return max(1, round(pd.Timedelta(days=1) / self.step))

    def select(self, columns: Sequence[str]) -> "Series":
        """Return the series of these columns in this order; an InputError names one that is missing."""
        for column in columns:
            if column not in self.columns:
                raise InputError(f"{self.path}: no column {column!r}{did_you_mean(column, self.columns)}")
        places = [self.columns.index(column) for column in columns]
        return replace(self, values=self.values[:, places], columns=tuple(columns))


def read_series(path: str | Path) -> Series:
    """Read a CSV file with a header line, a date column (`date`, `datetime`, `timestamp`, `time`), numeric columns.

    Raises:
        InputError: missing or unreadable file, no date column, a cell that is no finite number, dates that are not
            regular; the message names file, line (the header is line 1) and column.
    """
    path = Path(path)
    content = _read_bytes(path)
    frame = _parse(content, path)
    date_column = next((name for name in frame.columns if name.strip().lower() in _DATE_NAMES), None)
    if date_column is None:
        names = ", ".join(frame.columns[:10])
        raise InputError(f"{path}: no date column (one of: {', '.join(_DATE_NAMES)}) among {names}")
    numbers = frame.drop(columns=date_column)
    if numbers.shape[1] == 0:
        raise InputError(f"{path}: no numeric column beside {date_column}")
    if len(frame) < 2:
        raise InputError(f"{path}: {len(frame)} rows of data, at least 2 are needed")
    dates = _dates(frame[date_column], date_column, path)
    values = np.stack([_numbers(numbers[name], name, path) for name in numbers.columns], axis=1)
    return Series(dates, values, tuple(numbers.columns), path, hashlib.sha256(content).hexdigest())


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _parse(content: bytes, path: Path) -> pd.DataFrame:
    try:
        header = next(csv.reader([content.split(b"\n", 1)[0].decode("utf-8-sig")]), [])
        repeated = next((name for name in header if header.count(name) > 1), None)
        if repeated is not None:
            raise InputError(f"{path}: line 1: two columns are named {repeated!r}")
        with warnings.catch_warnings():
            # Rows that are longer than the header lose cells with no more than a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            return pd.read_csv(BytesIO(content), index_col=False, encoding="utf-8-sig", skip_blank_lines=False)
    except pd.errors.ParserWarning as error:
        raise InputError(f"{path}: some line has more cells than the header has names") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: is this a CSV file?") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise InputError(f"{path}: not a valid CSV file: {' '.join(str(error).split())[:200]}") from error


def _dates(cells: pd.Series, column: str, path: Path) -> pd.DatetimeIndex:
    dates = pd.to_datetime(cells.astype(str), errors="coerce", format="ISO8601")
    for row in np.flatnonzero(dates.isna()):
        raise InputError(
            f"{path}: line {row + 2}: {column}: {cells.iloc[row]!r} is no date (write 2016-07-01 00:00:00)"
        )
    index = pd.DatetimeIndex(dates)
    gaps = np.diff(index.to_numpy())
    # The most frequent step is the file's own: a gap right at the start must not pass for it.
    steps, counts = np.unique(gaps, return_counts=True)
    expected = steps[np.argmax(counts)]
    for row in np.flatnonzero((gaps != expected) | (gaps <= np.timedelta64(0, "ns"))):
        here, gap = index[int(row) + 1], pd.Timedelta(gaps[row])
        if gap == pd.Timedelta(0):
            raise InputError(f"{path}: line {row + 3}: {column}: {here} stands there twice")
        raise InputError(
            f"{path}: line {row + 3}: {column}: {here} comes {gap} after the line before, "
            f"not {pd.Timedelta(expected)}: fill the gap or sort the file first"
        )
    return index


def _numbers(cells: pd.Series, column: str, path: Path) -> NDArray[np.float64]:
    numeric = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    for row in np.flatnonzero(~np.isfinite(numeric)):
        cell = cells.iloc[row]
        missing = pd.isna(cell) or not str(cell).strip()
        what = "the cell is empty or NaN" if missing else f"{str(cell)!r} is no finite number"
        raise InputError(f"{path}: line {row + 2}: {column}: {what}")
    return numeric
