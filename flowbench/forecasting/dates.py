"""The column of dates: ISO 8601, with or without UTC offsets, at regular steps, the oldest or the newest row first."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.offsets import BaseOffset

from flowbench.errors import InputError
from flowbench.forecasting.steps import likeliest_step, step_name

__all__ = ["Dates", "read_dates"]

_EXAMPLE = "2016-07-01 00:00:00"
# A time, and after it Z, +01:00, +0100 or +01.
_OFFSET = r"[T ]\d.*?(Z|[+-]\d{2}(?::?\d{2})?)$"


@dataclass(frozen=True, eq=False)
class Dates:
    """Regular dates, the oldest first."""

    index: pd.DatetimeIndex
    """With its step as `freq`. With a zone where the cells have UTC offsets: theirs, or UTC where they differ."""
    newest_first: bool
    """The file's rows run backwards in time."""
    notes: list[str]


def read_dates(cells: pd.Series, column: str, path: Path, step: str | None = None) -> Dates:
    """Read the cells of a file's date column.

    Steps are counted in UTC where the cells have offsets. Where those change, days and longer steps may be regular by
    the clock instead, as midnights are with daylight saving: the offsets are then left out, with a note.

    Args:
        cells: text, one a row; the first stands on line 2.
        column: its name.
        path: of the file.
        step: the name of the step that the dates are expected to have, for a file of a few rows.

    Raises:
        InputError: a cell is no date, or some have a UTC offset and some none, or a date is missing, stands there twice
            or breaks the order; the message names file, line and column.
    """
    where = f"{path}: line %d: {column}: "
    offsets = cells.str.strip().str.extract(_OFFSET, expand=False)
    zoned = bool(offsets.notna().any())
    dates = _parsed(cells, where, utc=zoned)
    if zoned and offsets.isna().any():
        row = int(np.flatnonzero(offsets.isna())[0])
        raise InputError(f"{where % (row + 2)}{cells.iloc[row]!r} has no UTC offset, but other dates have one")
    if zoned and offsets.nunique() == 1:
        dates = dates.tz_convert(pd.Timestamp(f"2000-01-01T00:00{offsets.iloc[0]}").tz)
    read, notes = _Stepped(dates, step), []
    if read.misfits.size and offsets.nunique() > 1:
        local = [cell.strip().removesuffix(offset) for cell, offset in zip(cells, offsets, strict=True)]
        clock = _Stepped(_parsed(pd.Series(local), where, utc=False), step)
        if clock.misfits.size < read.misfits.size and clock.dates[1] - clock.dates[0] >= pd.Timedelta(days=1):
            read = clock
            notes = [f"{path.name}: {column}: regular by the clock, not in UTC: the UTC offsets are left out"]
    read.check(where)
    return Dates(pd.DatetimeIndex(read.dates, freq=read.step), read.newest_first, notes)


def _parsed(cells: pd.Series, where: str, *, utc: bool) -> pd.DatetimeIndex:
    dates = pd.to_datetime(cells, errors="coerce", format="ISO8601", utc=utc)
    for row in np.flatnonzero(dates.isna()):
        cell = cells.iloc[row]
        if pd.isna(cell):
            raise InputError(f"{where % (row + 2)}the cell is empty")
        counted = _since_1970(cell)
        if counted is not None:
            raise InputError(f"{where % (row + 2)}{cell} seems to count {counted}: write dates, such as {_EXAMPLE}")
        raise InputError(f"{where % (row + 2)}{cell!r} is no date (write {_EXAMPLE})")
    return pd.DatetimeIndex(dates.array)


def _since_1970(cell: str) -> str | None:
    """Say what a number of a plausible size counts; None: it is none."""
    try:
        number = float(cell)
    except ValueError:
        return None
    for unit, per_second in (("seconds", 1), ("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9)):
        if 1e8 <= abs(number) / per_second < 1e10:
            return f"{unit} since 1970 ({pd.Timestamp(number / per_second, unit='s'):%Y-%m-%d %H:%M:%S})"
    return None


class _Stepped:
    """Dates, turned round where every one is earlier than the one before, and the step that most of them follow."""

    def __init__(self, dates: pd.DatetimeIndex, known: str | None) -> None:
        self.newest_first = bool((dates[:-1] > dates[1:]).all())
        self.dates = dates[::-1] if self.newest_first else dates
        found: tuple[BaseOffset, NDArray[np.intp]] = likeliest_step(self.dates, known)
        self.step, self.misfits = found

    def check(self, where: str) -> None:
        """Raise InputError for the first date that does not follow the one before it by the step."""
        for row in self.misfits:
            here, gap = self.dates[row + 1], self.dates[row + 1] - self.dates[row]
            line, neighbour = (len(self.dates) - row, "below") if self.newest_first else (row + 3, "before")
            if gap == pd.Timedelta(0):
                raise InputError(f"{where % line}{here} stands there twice")
            if gap < pd.Timedelta(0):
                raise InputError(f"{where % line}{here} is earlier than the line before: sort the file by date first")
            name = step_name(self.step)
            step = name if " " in name else f"one step of pandas' {name}"
            raise InputError(
                f"{where % line}{here} comes {gap} after the line {neighbour}, not {step}: "
                "fill the gap or sort the file first"
            )
