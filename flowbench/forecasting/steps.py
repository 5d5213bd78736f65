"""The step from one date to the next: a span of time, or one of the calendar's (month ends, business days, …)."""

import re
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.frequencies import to_offset
from pandas.tseries.offsets import BaseOffset, Tick

__all__ = ["likeliest_step", "step_name"]

_MONTH = pd.Timedelta(days=28)
_DAY = pd.Timedelta(days=1)
_HOUR = pd.Timedelta(hours=1)


def likeliest_step(dates: pd.DatetimeIndex, known: str | None = None) -> tuple[BaseOffset, NDArray[np.intp]]:
    """Return the step that most dates follow, and the places of those that the next date does not follow by it.

    `pd.infer_freq` says nothing of dates with a gap; here the gap is found. What fits equally well, on a few dates, is
    decided for `known`, then for months where a step is as long as one, then for a span of time.

    Args:
        dates: at least two.
        known: the name (see `step_name`) of the step that the dates are expected to have.
    """
    gaps = np.diff(_without_zone(dates).to_numpy())
    spans, counts = np.unique(gaps[gaps > np.timedelta64(0, "ns")], return_counts=True)
    span = pd.Timedelta(spans[np.argmax(counts)]) if len(spans) else _DAY
    none = np.empty(0, dtype=np.intp)
    if known is not None and len(_misfits(dates, expected := _named(known))) == 0:
        return expected, none
    if len(dates) > 4 and bool((gaps == span).all()):  # up to three steps of a year each may be equally long
        return _span(span), none
    by_months = _steps_of_months(dates) if span >= _MONTH else ()
    by_days = _steps_of_days(dates, span) if span < _MONTH else ()
    found = [(step, _misfits(dates, step)) for step in (*by_months, _span(span), *by_days)]
    return min(found, key=lambda pair: len(pair[1]))


def step_name(step: BaseOffset) -> str:
    """Return what a step is called: `0 days 01:00:00`, `3 months`, or as pandas calls it (`MS`, `BME`, `B`)."""
    if isinstance(step, Tick):
        return str(pd.Timedelta(step))
    return f"{step.kwds['months']} months" if type(step) is pd.DateOffset else step.freqstr


def _named(name: str) -> BaseOffset:
    if ":" in name:
        return _span(pd.Timedelta(name))
    months = re.fullmatch(r"(\d+) months", name)
    return pd.DateOffset(months=int(months[1])) if months else to_offset(name)


def _span(span: pd.Timedelta) -> BaseOffset:
    # pd.Timedelta(days=1) is a Tick in every pandas; `D` is the calendar's day from pandas 3 on.
    return to_offset(span)


def _steps_of_months(dates: pd.DatetimeIndex) -> Iterator[BaseOffset]:
    """Yield the steps of n months, n as in most places: quarters and years are such, too."""
    lengths, counts = np.unique(np.diff(dates.year * 12 + dates.month), return_counts=True)
    n, first = int(lengths[np.argmax(counts)]), dates[0]
    if n < 1:
        return
    yield from (kind(n) for kind in (
        pd.offsets.MonthBegin, pd.offsets.MonthEnd, pd.offsets.BusinessMonthBegin, pd.offsets.BusinessMonthEnd
    ))  # fmt: skip
    yield pd.DateOffset(months=n)
    yield pd.offsets.WeekOfMonth(n, week=min((first.day - 1) // 7, 3), weekday=first.weekday())
    yield pd.offsets.LastWeekOfMonth(n, weekday=first.weekday())  # type: ignore[arg-type]


def _steps_of_days(dates: pd.DatetimeIndex, span: pd.Timedelta) -> Iterator[BaseOffset]:
    """Yield the steps shorter than a month that skip weekends or halve months."""
    weekdays_alone = bool((dates.day_of_week < 5).all())
    if weekdays_alone and span == _HOUR:
        yield pd.offsets.BusinessHour()
    if span < _DAY:
        return
    if weekdays_alone:
        days = _without_zone(dates).to_numpy().astype("datetime64[D]")
        lengths, counts = np.unique(np.busday_count(days[:-1], days[1:]), return_counts=True)
        yield pd.offsets.BusinessDay(max(1, int(lengths[np.argmax(counts)])))
    for kind, first in ((pd.offsets.SemiMonthBegin, 2), (pd.offsets.SemiMonthEnd, 1)):
        middle, counts = np.unique(dates.day[(dates.day >= first) & (dates.day <= 27)], return_counts=True)
        if len(middle):
            yield kind(day_of_month=int(middle[np.argmax(counts)]))


def _misfits(dates: pd.DatetimeIndex, step: BaseOffset) -> NDArray[np.intp]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
        wrong = np.asarray(dates[:-1] + step != dates[1:])
    if not step.is_on_offset(dates[0]):
        wrong[0] = True
    return np.flatnonzero(wrong)


def _without_zone(dates: pd.DatetimeIndex) -> pd.DatetimeIndex:
    return dates if dates.tz is None else dates.tz_convert(None)
