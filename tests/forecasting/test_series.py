from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flowbench.errors import InputError
from flowbench.forecasting.series import Series, read_series

GOOD = [
    "date,a,OT",
    "2020-01-01 00:00:00,1.5,2",
    "2020-01-01 01:00:00,2.5,3",
    "2020-01-01 02:00:00,3.5,4",
    "2020-01-01 03:00:00,4.5,5",
]


def write(path: Path, lines: list[str]) -> Path:
    file = path / "file.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_values_dates_and_columns_are_those_of_the_file(tmp_path: Path) -> None:
    series = read_series(write(tmp_path, GOOD))
    assert series.columns == ("a", "OT")
    np.testing.assert_array_equal(series.values, [[1.5, 2], [2.5, 3], [3.5, 4], [4.5, 5]])
    assert str(series.dates[-1]) == "2020-01-01 03:00:00"
    assert series.rows_per_day == 24
    assert len(series.sha256) == 64


def replaced(line: int, text: str) -> list[str]:
    return [*GOOD[: line - 1], text, *GOOD[line:]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["when,a", "2020-01-01,1", "2020-01-02,2"], "no date column"),
        (["date", "2020-01-01", "2020-01-02"], "no numeric column"),
        (GOOD[:2], "1 rows of data"),
        (GOOD[:1], "0 rows of data"),
        ([""], "not a valid CSV"),
        (["date,a,a", *GOOD[1:]], "two columns are named 'a'"),
        (replaced(3, "2020-01-01 01:00:00,high,3"), "line 3: a: 'high' is no finite number"),
        (replaced(4, "2020-01-01 02:00:00,3.5,"), "line 4: OT: the cell is empty or NaN"),
        (replaced(4, "2020-01-01 02:00:00,3.5,inf"), "line 4: OT: 'inf' is no finite number"),
        (replaced(3, "yesterday,2.5,3"), "line 3: date: 'yesterday' is no date"),
        (replaced(3, "2020-01-01 00:00:00,2.5,3"), "line 3: date: 2020-01-01 00:00:00 stands there twice"),
        (replaced(5, "2020-01-01 05:00:00,4.5,5"), "line 5: date: 2020-01-01 05:00:00 comes 0 days 03:00:00 after"),
        (replaced(3, "2020-01-01 01:00:00,2.5,3,9"), "line 3: 4 cells, but the header has 3"),
    ],
)
def test_a_bad_file_is_one_line_that_names_place_and_way_out(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_series(write(tmp_path, lines))
    assert "\n" not in str(caught.value)
    assert "file.csv" in str(caught.value)


ROWS = GOOD[1:]
COUNTED = [f"{row},{line}" for row, line in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("lines", "notes"),
    [
        ([",date,a,OT", *COUNTED], ["column 1, without a name, counts the rows: left out"]),
        (["Unnamed: 0,date,a,OT", *COUNTED], ["column 1, without a name, counts the rows: left out"]),
        (["index,date,a,OT", *COUNTED], ["column index counts the rows: left out"]),
        ([",Unnamed: 0,date,a,OT", *(f"{k},{line}" for k, line in enumerate(COUNTED))],
         [f"column {k}, without a name, counts the rows: left out" for k in (1, 2)]),
        (["date,a,OT,", *(f"{line},{7 + k}" for k, line in enumerate(ROWS))],
         ["column 4, without a name, counts the rows: left out"]),
        (["date,a,OT,,", *(f"{line},," for line in ROWS)],
         [f"column {k}, without a name, is empty: left out" for k in (4, 5)]),
        (["date,a,OT,", *ROWS], ["column 4, without a name, is empty: left out"]),
        (["date,a,OT", *(f"{line}," for line in ROWS)], []),
        ([",a,OT", *ROWS], []),
        ([*GOOD, ""], []),
        ([*GOOD, "  ", "", ""], []),
        ([*GOOD, "", ",,"], []),
        ([GOOD[0], *ROWS[::-1]], ["its newest row comes first: read from the end"]),
        ([",date,a,OT", *COUNTED[::-1]],
         ["column 1, without a name, counts the rows: left out", "its newest row comes first: read from the end"]),
    ],
)  # fmt: skip
def test_what_is_no_variable_is_left_out_with_a_note(tmp_path: Path, lines: list[str], notes: list[str]) -> None:
    expected, found = read_series(write(tmp_path, GOOD)), read_series(write(tmp_path, lines))
    assert found.columns == ("a", "OT")
    np.testing.assert_array_equal(found.values, expected.values)
    assert list(found.dates) == list(expected.dates)
    assert list(found.notes) == [f"file.csv: {note}" for note in notes]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([",date,a,OT", *(f"{2.5 * k},{line}" for k, line in enumerate(ROWS))], "line 1: column 1 has no name"),
        (["date,a,OT,", *ROWS[:-1], f"{ROWS[-1]},7"], "line 1: column 4 has no name"),
        (["date,", *(f"2020-01-0{k},{k}" for k in range(1, 5))], "no numeric column beside date"),
        ([line.replace(",", ";") for line in GOOD], "line 1: its columns stand between semicolons"),
        (["date;a;OT", *(line.replace(",", ";").replace(".", ",") for line in ROWS)], "between semicolons"),
        ([line.replace(",", "\t") for line in GOOD], "between tabs"),
        (["date,a,OT", *(f"{line},7" for line in ROWS)], "line 2: 4 cells, but the header has 3: a decimal comma"),
        (["", *GOOD], "line 1 is empty"),
        ([*GOOD[:3], "", *GOOD[3:]], "line 4: date: the cell is empty"),
    ],
)
def test_what_cannot_be_read_for_sure_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_series(write(tmp_path, lines))
    assert "\n" not in str(caught.value)


def test_the_date_column_may_have_a_name_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, ["when,a,OT", *ROWS])
    assert list(read_series(path, date="when").dates) == list(read_series(write(tmp_path, GOOD)).dates)
    path = write(tmp_path, ["when,a,OT", *ROWS])
    with pytest.raises(InputError, match=r"no column 'whem'; did you mean when\?"):
        read_series(path, date="whem")
    with pytest.raises(InputError, match=r"no date column .*data\.date.* among when, a, OT"):
        read_series(path)


def test_rows_a_day_of_steps_that_are_no_span_of_time(make_series: Callable[..., Series]) -> None:
    rows = {freq: make_series(100, freq).rows_per_day for freq in ("15min", "1D", "7D", "MS", "QE", "B", "bh")}
    assert rows == {"15min": 96, "1D": 1, "7D": 1, "MS": 1, "QE": 1, "B": 1, "bh": 8}


def test_a_missing_file_and_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        read_series(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00date")
    with pytest.raises(InputError, match="not UTF-8"):
        read_series(tmp_path / "b.csv")


def test_selecting_reorders_and_names_what_is_missing(make_series: Callable[..., Series]) -> None:
    series = make_series(10)
    np.testing.assert_array_equal(series.select(("OT", "a")).values, series.values[:, [1, 0]])
    with pytest.raises(InputError, match="no column 'OTT'; did you mean OT"):
        series.select(("OTT",))
