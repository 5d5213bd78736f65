import numpy as np
import pandas as pd
import pytest

from flowbench.forecasting.steps import likeliest_step, step_name

FREQUENCIES = [
    "1s", "15min", "1h", "6h", "36h", "1D", "3D", "7D", "W-WED", "2W",
    "MS", "ME", "2MS", "BMS", "BME", "QS-FEB", "QE", "BQE", "BQS-FEB", "YS", "YE-JUN", "BYS", "BYE-MAR", "2YE",
    "B", "2B", "bh", "SMS", "SME", "SMS-10", "SME-5", "WOM-3FRI", "WOM-4TUE", "LWOM-FRI",
    pd.DateOffset(months=1), pd.DateOffset(years=1),
]  # fmt: skip


def plain(dates: pd.DatetimeIndex) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(dates.to_numpy())


@pytest.mark.parametrize("frequency", FREQUENCIES, ids=str)
def test_every_regular_frequency_of_pandas_is_recognised_and_goes_on(frequency: str | pd.DateOffset) -> None:
    for start in ("1960-01-05", "2013-07-15 13:00"):
        dates = plain(pd.date_range(start, periods=103, freq=frequency))
        step, misfits = likeliest_step(dates[:100])
        assert len(misfits) == 0
        assert list(pd.date_range(dates[99], periods=4, freq=step)[1:]) == list(dates[100:])
        again, misfits = likeliest_step(dates[:100], step_name(step))
        assert (again, len(misfits)) == (step, 0)


@pytest.mark.parametrize("frequency", ["1h", "7D", "MS", "ME", "B", "QE", "SMS"])
def test_a_gap_is_found_where_it_is(frequency: str) -> None:
    dates = plain(pd.date_range("2015-01-01", periods=120, freq=frequency))
    whole = likeliest_step(dates)[0]
    for gap in (1, 50, 118):
        step, misfits = likeliest_step(dates.delete(gap))
        assert (step, list(misfits)) == (whole, [gap - 1])


def test_on_few_dates_the_step_that_is_expected_decides() -> None:
    five = plain(pd.date_range("2024-01-01", "2024-01-05"))  # Monday to Friday
    assert step_name(likeliest_step(five)[0]) == "1 days 00:00:00"
    assert step_name(likeliest_step(five, "B")[0]) == "B"
    assert step_name(likeliest_step(five, "MS")[0]) == "1 days 00:00:00"
    summer = plain(pd.DatetimeIndex(["2021-07-01", "2021-08-01", "2021-09-01"]))  # 31 days each
    assert step_name(likeliest_step(summer)[0]) == "MS"


def test_dates_without_order_have_misfits() -> None:
    dates = pd.DatetimeIndex(np.array(["2020-01-02", "2020-01-01", "2020-01-01"], dtype="datetime64[s]"))
    assert list(likeliest_step(dates)[1]) == [0, 1]
