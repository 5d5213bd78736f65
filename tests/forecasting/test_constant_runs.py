from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowbench.forecasting.constant_runs import find_constant_runs, in_constant_runs, stuck_sensors
from flowbench.forecasting.series import Series, read_series


def column(*lengths: int) -> np.ndarray:
    """Runs of these lengths, each of another value."""
    return np.repeat(np.arange(len(lengths)) * 0.1, lengths)[:, None]


def test_a_run_of_a_day_is_constant_and_one_row_less_is_not() -> None:
    marked = in_constant_runs(column(3, 24, 1, 23, 30), rows_per_day=24)[:, 0]
    assert marked.tolist() == [False] * 3 + [True] * 24 + [False] * 24 + [True] * 30


@pytest.mark.parametrize(("rows_per_day", "least"), [(1, 12), (4, 12), (24, 24), (96, 96)])
def test_slow_files_need_twelve_rows(rows_per_day: int, least: int) -> None:
    assert not in_constant_runs(column(1, least - 1, 1), rows_per_day).any()
    assert in_constant_runs(column(1, least, 1), rows_per_day).sum() == least


def test_a_window_is_free_where_none_of_its_rows_is_stuck() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        values = generator.integers(0, 2, size=(60, 3)).astype(float)
        values[generator.integers(60) :, 0] = 5
        found = find_constant_runs(values, rows_per_day=4, horizon=5)
        stuck = in_constant_runs(values, 4)
        if found is None:
            assert not stuck.any()
            continue
        assert found.free.tolist() == [(~stuck[first : first + 5].any(axis=0)).tolist() for first in range(60 - 5 + 1)]
        assert found.share == pytest.approx(stuck.mean(axis=0))


def test_nothing_stuck_is_nothing_found(make_series: Callable[..., Series]) -> None:
    series = make_series(400)
    assert find_constant_runs(series.values, series.rows_per_day, 8) is None
    assert stuck_sensors(series, "ratio").lines == []


def test_a_file_is_told_of_as_a_whole_and_by_its_test_rows(make_series: Callable[..., Series]) -> None:
    series = make_series(1000)
    values = series.values.copy()
    values[700:900, 1], values[100:150, 2] = 3.5, 0.0
    stuck = stuck_sensors(replace(series, values=values), "ratio")
    assert (stuck.all, stuck.test) == ({"OT": 0.2, "b": 0.05}, {"OT": 0.5})
    assert stuck.lines[0].endswith("all rows: 20 % of OT, 5 % of b")
    assert stuck.lines[1].endswith("the ratio protocol's test rows: 50 % of OT")
    assert stuck_sensors(replace(series, values=values), "informer").test == {}  # too short for it


@pytest.mark.data
def test_two_sensors_of_etth2_are_stuck_for_much_of_the_test(require_data: Callable[[str], Path]) -> None:
    stuck = stuck_sensors(read_series(require_data("etth2") / "ETTh2.csv"), "informer")
    assert stuck.test["HULL"] == pytest.approx(0.56, abs=0.005)
    assert stuck.test["LULL"] == pytest.approx(0.30, abs=0.005)
