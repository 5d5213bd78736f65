"""A multivariate series from a CSV file: a date column at regular steps and numeric columns, wholly checked."""

import csv
import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.offsets import BaseOffset, Tick

from flowbench.errors import InputError, did_you_mean, why
from flowbench.forecasting.dates import read_dates
from flowbench.forecasting.steps import likeliest_step

__all__ = ["Series", "parse_series", "read_series"]

_DATE_NAMES = ("date", "datetime", "timestamp", "time")
# An empty name, and what pandas makes of one when it reads and writes a file again.
_NAMELESS = re.compile(r"\s*|Unnamed: \d+(\.\d+)*")
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


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
    notes: tuple[str, ...] = ()
    """What a reader of figures must know of how the file was read."""

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def step(self) -> BaseOffset:
        """The step from row to row: a span of time (`Tick`) or one of the calendar's, as month ends."""
        step = self.dates.freq
        # From pandas 3 on `Day` is the calendar's; the days of a series are 24 hours.
        return likeliest_step(self.dates)[0] if step is None or isinstance(step, pd.offsets.Day) else step

    @property
    def rows_per_day(self) -> int:
        """Rows in 24 hours, at least 1: 24 for an hourly file, 96 for a 15-minute one."""
        if isinstance(self.step, Tick):
            return max(1, round(pd.Timedelta(days=1) / pd.Timedelta(self.step)))
        return int(self.dates.normalize().value_counts().max())

    def select(self, columns: Sequence[str]) -> "Series":
        """Return the series of these columns in this order; an InputError names one that is missing."""
        for column in columns:
            if column not in self.columns:
                raise InputError(f"{self.path}: no column {column!r}{did_you_mean(column, self.columns)}")
        places = [self.columns.index(column) for column in columns]
        return replace(self, values=self.values[:, places], columns=tuple(columns))


def read_series(path: str | Path, *, date: str | None = None, step: str | None = None) -> Series:
    """Read a CSV file with a header line, a date column and numeric columns.

    A column without a name is left out, with a note, where it is empty or counts the rows (pandas' index).

    Args:
        path: of the file.
        date: the date column's name; None: `date`, `datetime`, `timestamp` or `time`.
        step: the name of the step that the dates are expected to have (see `steps.step_name`), for a file of few rows.

    Raises:
        InputError: missing or unreadable file, no date column, a cell that is no finite number, a column without a
            name, dates that are not regular; the message names file, line (the header is line 1) and column.
    """
    return parse_series(_read_bytes(Path(path)), Path(path), date=date, step=step)


def parse_series(content: bytes, path: Path, *, date: str | None = None, step: str | None = None) -> Series:
    """Return the series of a file whose bytes are in memory; the rest as in `read_series`, errors name `path`."""
    text = _decode(content, path).rstrip()  # an empty last line is none
    header = _header(text, path)
    place = _date_place(header, text, date, path)
    frame = _parse(text, len(header), place, path)
    if len(frame) < 2:
        raise InputError(f"{path}: {len(frame)} rows of data, at least 2 are needed")
    left_out = _left_out(header, frame, place, path)
    kept = [column for column in range(len(header)) if column != place and column not in left_out]
    if not kept:
        raise InputError(f"{path}: no numeric column beside {header[place]}")
    dates = read_dates(frame[place], header[place], path, step)
    values = np.stack([_numbers(frame[column], header[column], path) for column in kept], axis=1)
    notes = [f"{path.name}: {left_out[column]}" for column in left_out]
    if dates.newest_first:
        values = values[::-1].copy()
        notes.append(f"{path.name}: its newest row comes first: read from the end")
    columns = tuple(header[column] for column in kept)
    return Series(dates.index, values, columns, path, hashlib.sha256(content).hexdigest(), (*notes, *dates.notes))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {why(error)}") from error


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: is this a CSV file?") from error


def _header(text: str, path: Path) -> list[str]:
    try:
        header = next(csv.reader(io.StringIO(text)), [])
    except csv.Error as error:
        raise InputError(f"{path}: not a valid CSV file: {error}") from error
    if not header:
        raise InputError(f"{path}: not a valid CSV file: line 1 is empty, the header belongs there")
    repeated = next((name for name in header if header.count(name) > 1 and not _NAMELESS.fullmatch(name)), None)
    if repeated is not None:
        raise InputError(f"{path}: line 1: two columns are named {repeated!r}")
    return header


def _date_place(header: list[str], text: str, named: str | None, path: Path) -> int:
    """Return which column has the dates."""
    if named is not None and named in header:
        return header.index(named)
    found = [place for place, name in enumerate(header) if name.strip().lower() in _DATE_NAMES]
    if named is None and found:
        return found[0]
    first_line, _, rest = text.partition("\n")
    if named is None and _NAMELESS.fullmatch(header[0]) and re.match(r'"?\d{4}-\d\d-\d\d', rest):
        header[0] = "date"  # an index of dates as pandas writes it
        return 0
    for separator, word in _OTHER_SEPARATORS.items():
        names = [name.strip(' "') for name in first_line.strip().split(separator)]
        if named in names or any(name.lower() in _DATE_NAMES for name in names):
            raise InputError(
                f"{path}: line 1: its columns stand between {word}: write commas between them, and a point in decimals"
            )
    if named is not None:
        raise InputError(f"{path}: data.date: no column {named!r}{did_you_mean(named, header)}")
    raise InputError(
        f"{path}: no date column (one of: {', '.join(_DATE_NAMES)}, or name it: data.date) among "
        f"{', '.join(header[:10])}"
    )


def _parse(text: str, columns: int, date: int, path: Path) -> pd.DataFrame:
    """Return the cells below the header, the dates as text; lines of commas alone at the end are left out."""
    try:
        with warnings.catch_warnings():
            # Rows that are longer than the header lose cells with no more than a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            frame = pd.read_csv(
                io.StringIO(text), header=0, names=list(range(columns)), dtype={date: str}, index_col=False,
                skip_blank_lines=False,
            )  # fmt: skip
    except pd.errors.ParserWarning as error:
        raise InputError(_too_long(text, columns, path)) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        if "Expected" in str(error):
            raise InputError(_too_long(text, columns, path)) from error
        raise InputError(f"{path}: not a valid CSV file: {' '.join(str(error).split())[:200]}") from error
    filled = np.flatnonzero(frame.notna().any(axis=1))
    return frame.iloc[: filled[-1] + 1 if len(filled) else 0]


def _too_long(text: str, columns: int, path: Path) -> str:
    """Return the message about the first line that has more cells than the header."""
    reader = csv.reader(io.StringIO(text))
    line, cells = next(((reader.line_num, len(row)) for row in reader if len(row) > columns), (0, 0))
    if not line:
        return f"{path}: some line has more cells than the header has names"
    return f"{path}: line {line}: {cells} cells, but the header has {columns}: a decimal comma? write a point"


def _left_out(header: list[str], frame: pd.DataFrame, date: int, path: Path) -> dict[int, str]:
    """Return why a column is no variable, by its place: an index that pandas wrote, commas at the lines' ends."""
    found = {}
    for place, name in enumerate(header):
        nameless = _NAMELESS.fullmatch(name) is not None
        if place == date or not (nameless or name == "index"):
            continue
        who = f"column {place + 1}, without a name," if nameless else f"column {name}"
        if nameless and frame[place].isna().all():
            found[place] = f"{who} is empty: left out"
        elif _counts_rows(frame[place]):
            found[place] = f"{who} counts the rows: left out"
        elif nameless:
            raise InputError(f"{path}: line 1: column {place + 1} has no name: give it one, or remove the column")
    return found


def _counts_rows(cells: pd.Series) -> bool:
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    steps = np.diff(numbers)
    return bool((steps == 1).all() or (steps == -1).all())


def _numbers(cells: pd.Series, column: str, path: Path) -> NDArray[np.float64]:
    numeric = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    for row in np.flatnonzero(~np.isfinite(numeric)):
        cell = cells.iloc[row]
        missing = pd.isna(cell) or not str(cell).strip()
        what = "the cell is empty or NaN" if missing else f"{str(cell)!r} is no finite number"
        raise InputError(f"{path}: line {row + 2}: {column}: {what}")
    return numeric
