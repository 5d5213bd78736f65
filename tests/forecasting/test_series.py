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
        (replaced(3, "2020-01-01 01:00:00,2.5,3,9"), "more cells|valid CSV"),
    ],
)
def test_a_bad_file_is_one_line_that_names_place_and_way_out(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_series(write(tmp_path, lines))
    assert "\n" not in str(caught.value)
    assert "file.csv" in str(caught.value)


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
