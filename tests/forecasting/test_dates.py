from pathlib import Path

import pandas as pd
import pytest

from flowbench.errors import InputError
from flowbench.forecasting.dates import Dates, read_dates

HOURS = pd.date_range("2021-03-20", periods=400, freq="1h", tz="UTC")


def read(cells: list[str], step: str | None = None) -> Dates:
    return read_dates(pd.Series(cells, dtype=object), "date", Path("f.csv"), step)


def refused(cells: list[str]) -> str:
    with pytest.raises(InputError) as caught:
        read(cells)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("zone", ["UTC", "+05:30", "-03:00", "Europe/Berlin"])
def test_offsets_count_in_utc_also_where_they_change(zone: str) -> None:
    found = read([date.isoformat() for date in HOURS.tz_convert(zone)])
    assert list(found.index) == list(HOURS)
    assert str(found.index[0])[-6:] == {"Europe/Berlin": "+00:00", "UTC": "+00:00"}.get(zone, zone)
    assert (found.newest_first, found.notes) == (False, [])


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M%z", "%Y%m%dT%H%M%S%z", "%Y-%m-%dT%H:%M:%S.%fZ"])
def test_offsets_in_their_other_forms(form: str) -> None:
    assert list(read(list(HOURS.strftime(form))).index) == list(HOURS)


@pytest.mark.parametrize(("frequency", "rows", "line"), [("D", 300, 102), ("MS", 120, 102)])
def test_midnights_with_daylight_saving_are_regular_by_the_clock(frequency: str, rows: int, line: int) -> None:
    dates = pd.date_range("2021-01-01", periods=rows, freq=frequency, tz="Europe/Berlin")
    cells = [date.isoformat() for date in dates]
    found = read(cells)
    assert list(found.index) == list(dates.tz_localize(None))
    assert ["clock" in note for note in found.notes] == [True]
    assert f"line {line}: date: {dates[101]:%Y-%m-%d}" in refused([*cells[:100], *cells[101:]])


def test_hours_that_are_regular_by_the_clock_alone_are_refused() -> None:
    clock = [f"{date:%Y-%m-%dT%H:%M}" for date in HOURS]
    assert "comes 0 days 02:00:00 after" in refused(
        [f"{date}+0{2 if place < 200 else 1}:00" for place, date in enumerate(clock)]
    )


def test_some_dates_with_and_some_without_an_offset_are_refused() -> None:
    cells = list(HOURS.strftime("%Y-%m-%dT%H:%M:%SZ"))
    cells[7] = cells[7][:-1]
    assert "line 9: date: '2021-03-20T07:00:00' has no UTC offset" in refused(cells)
    cells[7] = "noon"
    assert "line 9: date: 'noon' is no date" in refused(cells)


@pytest.mark.parametrize(("factor", "unit"), [(1, " seconds"), (10**3, "milli"), (10**6, "micro"), (10**9, "nano")])
def test_numbers_since_1970_are_named_as_such(factor: int, unit: str) -> None:
    said = refused([str((1_609_459_200 + 3600 * row) * factor) for row in range(5)])
    assert f"line 2: date: {1_609_459_200 * factor} seems to count" in said
    assert unit in said
    assert "1970 (2021-01-01 00:00:00)" in said
    assert "np." not in said


def test_the_newest_row_may_come_first() -> None:
    cells = list(HOURS.strftime("%Y-%m-%d %H:%M"))[::-1]
    found = read(cells)
    assert found.newest_first
    assert list(found.index) == list(HOURS.tz_localize(None))
    # Line 12 is the eleventh row, and the hour after it is the missing one.
    assert f"line 12: date: {cells[10]}:00 comes 0 days 02:00:00 after the line below" in refused(
        cells[:11] + cells[12:]
    )
    shuffled = refused([*cells[:10], cells[11], cells[10], *cells[12:]])
    assert f"line 3: date: {cells[1]}:00 is earlier than the line before: sort the file" in shuffled


def test_years_months_and_days_in_their_short_forms() -> None:
    for cells, last in (
        (["1990", "1991", "1992"], "1992-01-01"),
        (["2020-11", "2020-12", "2021-01"], "2021-01-01"),
        (["20201231", "20210101", "20210102"], "2021-01-02"),
    ):
        assert f"{read(cells).index[-1]:%Y-%m-%d}" == last
