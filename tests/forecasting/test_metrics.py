from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowbench.config.registry import forecasters
from flowbench.config.schema import ForecastData
from flowbench.errors import WorkFailedError
from flowbench.forecasting.metrics import mae_under, measure, metrics
from flowbench.forecasting.protocol import Scaler, fit_scaler
from flowbench.forecasting.series import Series, read_series
from flowbench.forecasting.windows import open_windows

DATA = ForecastData(csv="x", protocol="ratio", lookback=24, horizon=8)
NAIVE = {  # MAE and MSE on the real files, measured apart from this code
    ("ETTh1", "informer", 336, 96): {
        "repeat_last": (0.713181, 1.294371), "seasonal_naive": (0.433303, 0.512225), "mean": (0.567349, 0.706044)
    },
    ("ETTh1", "informer", 336, 720): {
        "repeat_last": (0.755045, 1.335121), "seasonal_naive": (0.514122, 0.655405), "mean": (0.595814, 0.700532)
    },
    ("ETTh2", "informer", 336, 192): {
        "repeat_last": (0.472538, 0.533722), "seasonal_naive": (0.428544, 0.481861), "mean": (0.430073, 0.401582)
    },
    ("ETTh1", "report", 64, 24): {
        "repeat_last": (0.473406, 0.435884), "seasonal_naive": (0.406936, 0.401531), "mean": (0.411374, 0.301793)
    },
    ("ETTh2", "report", 64, 24): {
        "repeat_last": (0.310725, 0.206457), "seasonal_naive": (0.248867, 0.172580), "mean": (0.272279, 0.158418)
    },
    ("ETTh1", "informer", 336, 24): {
        "repeat_last": (0.670588, 1.222018), "seasonal_naive": (0.389213, 0.424445), "mean": (0.559218, 0.696378)
    },
    ("ETTh1", "informer", 336, 48): {
        "repeat_last": (0.694535, 1.267472), "seasonal_naive": (0.407311, 0.464964), "mean": (0.562110, 0.699783)
    },
    ("ETTh1", "informer", 336, 192): {
        "repeat_last": (0.733101, 1.324880), "seasonal_naive": (0.469160, 0.580781), "mean": (0.574554, 0.713326)
    },
    ("ETTh1", "informer", 336, 336): {
        "repeat_last": (0.745972, 1.329927), "seasonal_naive": (0.500762, 0.649914), "mean": (0.579159, 0.705943)
    },
    ("ETTh2", "informer", 336, 24): {
        "repeat_last": (0.332126, 0.271186), "seasonal_naive": (0.303600, 0.265927), "mean": (0.398881, 0.352096)
    },
    ("ETTh2", "informer", 336, 48): {
        "repeat_last": (0.373875, 0.343889), "seasonal_naive": (0.338759, 0.322405), "mean": (0.406808, 0.365524)
    },
    ("ETTh2", "informer", 336, 96): {
        "repeat_last": (0.421621, 0.431657), "seasonal_naive": (0.380203, 0.390518), "mean": (0.418609, 0.384626)
    },
    ("ETTh2", "informer", 336, 336): {
        "repeat_last": (0.510865, 0.597277), "seasonal_naive": (0.465584, 0.532354), "mean": (0.428397, 0.392916)
    },
    ("ETTh2", "informer", 336, 720): {
        "repeat_last": (0.518991, 0.594472), "seasonal_naive": (0.473918, 0.525465), "mean": (0.454606, 0.431870)
    },
}  # fmt: skip


def naive(name: str = "repeat_last", data: ForecastData = DATA, columns: int = 3):  # type: ignore[no-untyped-def]
    config = forecasters[name](name=name)
    return config.build(lookback=data.lookback, horizon=data.horizon, inputs=columns, outputs=columns)


def test_metrics_are_the_means_over_every_window(make_series: Callable[..., Series]) -> None:
    opened = open_windows(make_series(400), DATA)
    errors = measure(naive(), opened.splits["test"], batch_size=7)
    scaled = opened.scaler.scale(opened.series.values).astype(np.float32).astype(np.float64)
    origins = range(320, 400 - 8 + 1)
    error = np.stack([scaled[o - 1] - scaled[o : o + 8] for o in origins])
    np.testing.assert_allclose(errors.per_window[:, 0], np.abs(error).mean(axis=(1, 2)), rtol=1e-6)
    found = metrics(errors, opened.scaler)
    std = np.array(opened.scaler.std)
    assert found["mae"]["value"] == pytest.approx(np.abs(error).mean())
    assert found["mse"]["value"] == pytest.approx((error**2).mean())
    per_column = dict(zip(("a", "OT", "b"), (np.abs(error) * std).mean(axis=(0, 1)), strict=True))
    assert found["mae_original"].pop("per_column") == pytest.approx(per_column)
    assert found["mae_original"] == {"value": None, "stderr": None, "n": 73, "unit": None}
    assert "mae_without_stuck" not in found
    assert found["mae"]["per_step"] == pytest.approx(np.abs(error).mean(axis=(0, 2)).tolist())
    assert found["mse"]["per_column"] == pytest.approx(
        dict(zip(("a", "OT", "b"), (error**2).mean(axis=(0, 1)), strict=True))
    )
    assert found["mae"]["n"] == len(errors.per_window) == 73
    assert found["mae"]["stderr"] is None


def test_columns_of_one_declared_unit_have_a_mean_in_it(make_series: Callable[..., Series]) -> None:
    opened = open_windows(make_series(400), DATA)
    errors = measure(naive(), opened.splits["test"])
    apart, together = metrics(errors, opened.scaler), metrics(errors, opened.scaler, "kW")
    for name, unit in (("mae_original", "kW"), ("mse_original", "kW²")):
        columns = apart[name]["per_column"]
        assert apart[name]["value"] is None
        assert together[name]["per_column"] == columns
        assert together[name]["value"] == pytest.approx(np.mean(list(columns.values())))
        assert together[name]["unit"] == unit
    assert metrics(errors, opened.scaler, "m/s")["mse_original"]["unit"] == "(m/s)²"
    assert together["mae"] == apart["mae"]


def stuck(series: Series, first: int, rows: int, column: int = 0) -> Series:
    values = series.values.copy()
    values[first : first + rows, column] = 7.25
    return replace(series, values=values)


def test_windows_whose_future_touches_a_constant_run_are_left_out_beside_the_mae(
    make_series: Callable[..., Series],
) -> None:
    opened = open_windows(stuck(make_series(600), 500, 30), DATA)  # the test part forecasts rows 480 to 599
    windows = opened.splits["test"]
    errors = measure(naive(), windows, batch_size=7)
    found = metrics(errors, opened.scaler)
    scaled = opened.scaler.scale(opened.series.values).astype(np.float32).astype(np.float64)
    origins = np.arange(480, 600 - 8 + 1)
    error = np.abs([scaled[o : o + 8] - scaled[o - 1] for o in origins]).mean(axis=1)
    free = (origins + 8 <= 500) | (origins >= 530)
    without = found["mae_without_stuck"]
    assert without["per_column"]["a"] == pytest.approx(error[free, 0].mean())
    assert without["per_column"]["b"] == pytest.approx(error[:, 2].mean())
    assert without["value"] == pytest.approx(np.mean(list(without["per_column"].values())))
    assert without["windows"] == {"a": free.sum(), "OT": 113, "b": 113}
    assert (without["n"], without["stderr"], without["constant_share"]) == (113, None, {"a": 30 / 120})
    windows.runs = None
    plain = measure(naive(), windows, batch_size=7)
    assert metrics(plain, opened.scaler)["mae"] == found["mae"]  # to the last digit
    assert metrics(plain, opened.scaler)["mse"] == found["mse"]


def test_a_column_without_a_free_window_has_no_mae_and_is_not_in_the_mean(make_series: Callable[..., Series]) -> None:
    opened = open_windows(stuck(make_series(600), 470, 130), DATA)
    without = metrics(measure(naive(), opened.splits["test"]), opened.scaler)["mae_without_stuck"]
    columns = without["per_column"]
    assert columns["a"] is None
    assert without["value"] == pytest.approx((columns["OT"] + columns["b"]) / 2)
    assert (without["windows"]["a"], without["constant_share"]) == (0, {"a": 1.0})

    only = ForecastData(csv="x", protocol="ratio", lookback=24, horizon=8, features="S", target="a")
    alone = open_windows(stuck(make_series(600), 470, 130), only)
    without = metrics(measure(naive(columns=1), alone.splits["test"]), alone.scaler)["mae_without_stuck"]
    assert (without["value"], without["per_column"]) == (None, {"a": None})


def test_the_batch_size_changes_nothing_and_the_mode_is_restored(make_series: Callable[..., Series]) -> None:
    windows = open_windows(make_series(400), DATA).splits["test"]
    model = forecasters["patchtst"](name="patchtst", patch=8).build(lookback=24, horizon=8, inputs=3, outputs=3)
    model.train()
    one, other = measure(model, windows, 5), measure(model, windows, 1000)
    np.testing.assert_allclose(one.per_window, other.per_window, rtol=1e-4)
    assert model.training


def test_measuring_feeds_no_future_back(make_series: Callable[..., Series]) -> None:
    windows = open_windows(make_series(400), DATA).splits["test"]
    torch.manual_seed(0)
    config = forecasters["lstm2lstm"](name="lstm2lstm", hidden=4, teacher_forcing=1.0)
    model = config.build(lookback=24, horizon=8, inputs=3, outputs=3).train()
    measured = measure(model, windows)
    model.eval()
    with torch.no_grad():
        errors = torch.cat(
            [(model(history) - future).abs().mean(dim=(1, 2)) for history, future in windows.in_order(50)]
        )
    np.testing.assert_allclose(measured.per_window[:, 0], errors, rtol=1e-4)


def test_the_files_own_scaler_gives_the_mae_beside_it(make_series: Callable[..., Series]) -> None:
    train, other = make_series(400), make_series(400, seed=5)
    own = fit_scaler(other, DATA)
    crossed = open_windows(other, DATA, scaler=fit_scaler(train, DATA))
    errors = measure(naive(), crossed.splits["test"])
    direct = measure(naive(), open_windows(other, DATA).splits["test"])
    under = mae_under(errors, crossed.scaler, own)
    assert under["value"] == pytest.approx(direct.absolute.mean(), rel=1e-5)
    assert list(under["per_column"].values()) == pytest.approx(direct.absolute.mean(axis=0), rel=1e-5)
    assert mae_under(errors, crossed.scaler, crossed.scaler)["value"] == pytest.approx(errors.absolute.mean())


def test_a_forecast_that_is_not_finite_is_reported(make_series: Callable[..., Series]) -> None:
    windows = open_windows(make_series(400), DATA).splits["test"]
    model = forecasters["linear"](name="linear").build(lookback=24, horizon=8, inputs=3, outputs=3)
    torch.nn.init.constant_(model.map.bias, float("nan"))
    with pytest.raises(WorkFailedError, match="window 0 is not finite"):
        measure(model, windows)


@pytest.mark.data
@pytest.mark.parametrize("key", NAIVE)
def test_naive_rows_agree_with_the_reference_on_the_real_files(
    require_data: Callable[[str], Path], key: tuple[str, str, int, int]
) -> None:
    file, protocol, lookback, horizon = key
    series = read_series(require_data(file.lower()) / f"{file}.csv")
    data = ForecastData.model_validate(
        {"csv": "x", "protocol": protocol, "lookback": lookback, "horizon": horizon}
    )  # fmt: skip
    windows = open_windows(series, data).splits["test"]
    for name, (mae, mse) in NAIVE[key].items():
        errors = measure(naive(name, data, 7), windows)
        assert errors.absolute.mean() == pytest.approx(mae, abs=1e-6)
        assert errors.squared.mean() == pytest.approx(mse, abs=1e-6)


def test_scaler_selects_by_name() -> None:
    assert Scaler(("a", "b"), (1.0, 2.0), (3.0, 4.0)).select(("b",)) == Scaler(("b",), (2.0,), (4.0,))
