from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from flowbench.config.registry import forecasters
from flowbench.config.schema import ForecastData
from flowbench.errors import InputError
from flowbench.forecasting.forecast import Wanted, forecast_mae, forecast_next, forecast_rolling
from flowbench.forecasting.protocol import fit_scaler
from flowbench.forecasting.series import Series

DATA = ForecastData(csv="x", protocol="ratio", lookback=24, horizon=10)
MakeSeries = Callable[..., Series]


def build(name: str = "nlinear", inputs: int = 3, outputs: int = 3):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    return forecasters[name](name=name).build(lookback=24, horizon=10, inputs=inputs, outputs=outputs)


def test_next_continues_the_dates_from_the_last_rows(make_series: MakeSeries) -> None:
    series = make_series(300)
    frame = forecast_next(build("repeat_last"), series, fit_scaler(series, DATA))
    assert list(frame.columns) == ["date", "a", "OT", "b", "a_forecast", "OT_forecast", "b_forecast"]
    assert list(frame["date"]) == list(pd.date_range(series.dates[-1], periods=11, freq="1h")[1:])
    assert frame[["a", "OT", "b"]].isna().all(axis=None)
    np.testing.assert_allclose(frame["OT_forecast"], series.values[-1, 1], rtol=1e-5)
    with pytest.raises(InputError, match="not known yet"):
        forecast_mae(frame, fit_scaler(series, DATA))


@pytest.mark.parametrize(
    ("freq", "start", "following"),
    [
        ("MS", "1974-01-01", ["2024-01-01", "2024-02-01"]),  # as of 600 months
        ("ME", "1974-01-31", ["2024-01-31", "2024-02-29"]),
        ("B", "2021-09-14", ["2024-01-02", "2024-01-03"]),
        ("QE", "1874-03-31", ["2024-03-31", "2024-06-30"]),
    ],
)
def test_next_goes_on_by_the_calendar(make_series: MakeSeries, freq: str, start: str, following: list[str]) -> None:
    dates = pd.date_range(start, periods=600, freq=freq)
    series = replace(make_series(600), dates=pd.DatetimeIndex(dates.to_numpy()))
    frame = forecast_next(build("repeat_last"), series, fit_scaler(series, DATA))
    assert list(frame["date"].dt.strftime("%Y-%m-%d")[:2]) == following


def test_rolling_covers_every_row_after_the_first_history(make_series: MakeSeries) -> None:
    series = make_series(103)  # 79 rows to forecast: 7 blocks of 10 and a remainder of 9
    scaler = fit_scaler(series, DATA)
    frame = forecast_rolling(build("repeat_last"), series, scaler)
    assert list(frame["date"]) == list(series.dates[24:])
    np.testing.assert_array_equal(frame[["a", "OT", "b"]], series.values[24:])
    last_known = series.values[23 + 10 * (np.arange(79) // 10)]
    np.testing.assert_allclose(frame[["a_forecast", "OT_forecast", "b_forecast"]], last_known, rtol=1e-4)
    error = np.abs(last_known - series.values[24:])
    mae, per_column = forecast_mae(frame, scaler)
    assert mae == pytest.approx((error / scaler.std).mean(), rel=1e-4)
    assert list(per_column.values()) == pytest.approx(error.mean(axis=0), rel=1e-4)


@pytest.mark.parametrize("poisoned", [24, 25, 60, 94, 102])
def test_rolling_never_sees_the_future(make_series: MakeSeries, poisoned: int) -> None:
    series = make_series(103)
    scaler, model = fit_scaler(series, DATA), build()
    values = series.values.copy()
    values[poisoned:] = np.nan
    clean = forecast_rolling(model, series, scaler).filter(like="forecast").to_numpy()
    partial = forecast_rolling(model, replace(series, values=values), scaler).filter(like="forecast").to_numpy()
    fed_by_truth_only = (poisoned - 24) // 10 * 10 + 10  # rows of blocks that begin at or before the poison
    np.testing.assert_allclose(partial[:fed_by_truth_only], clean[:fed_by_truth_only], rtol=1e-5)
    assert np.isnan(partial[fed_by_truth_only:]).all()


def test_columns_are_found_by_name_and_ms_forecasts_its_target(make_series: MakeSeries) -> None:
    series = make_series(100)
    scaler = fit_scaler(series, DATA).select(("a", "b", "OT"))
    frame = forecast_rolling(build("repeat_last", 3, 1), series.select(("OT", "b", "a")), scaler)
    assert list(frame.columns) == ["date", "OT", "OT_forecast"]
    np.testing.assert_allclose(frame["OT_forecast"].iloc[0], series.values[23, 1], rtol=1e-5)
    assert forecast_mae(frame, scaler)[0] > 0


def test_a_file_without_the_columns_or_the_rows_is_refused(make_series: MakeSeries) -> None:
    series = make_series(100)
    scaler = fit_scaler(series, DATA)
    with pytest.raises(InputError, match="no column 'b'"):
        forecast_next(build(), series.select(("a", "OT")), scaler)
    with pytest.raises(InputError, match="23 rows, but the model needs 24"):
        forecast_next(build(), replace(series, values=series.values[:23], dates=series.dates[:23]), scaler)


def test_a_column_that_is_called_as_a_forecast_would_be_is_refused(make_series: MakeSeries) -> None:
    series = replace(make_series(300), columns=("load", "other", "load_forecast"))
    with pytest.raises(InputError, match="column load_forecast: is called as the forecast of another one would be"):
        forecast_next(build("repeat_last"), series, fit_scaler(series, DATA))


@pytest.mark.parametrize(("level", "needed"), [(0.07, 14), (0.93, 14), (0.05, 19), (0.1, 9), (0.5, 1)])
def test_a_quantile_needs_so_many_paths_that_it_lies_among_them(level: float, needed: int) -> None:
    assert level * (needed + 1) >= 1 - 1e-9
    Wanted(needed, (level,)).check_paths()
    if needed > 1:
        with pytest.raises(InputError, match=f"give --samples {needed} or more"):
            Wanted(needed - 1, (level,)).check_paths()


def test_names_of_a_forecast_are_never_two_things(make_series: MakeSeries) -> None:
    series = replace(make_series(300), columns=("load", "other", "date"))
    with pytest.raises(InputError, match="column date: holds numbers"):
        forecast_next(build("repeat_last"), series, fit_scaler(series, DATA))
    with pytest.raises(InputError, match="one stands twice"):
        Wanted(99, (0.05, 0.05000001))
