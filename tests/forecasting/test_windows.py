import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from flowbench.config.schema import ForecastData
from flowbench.errors import InputError
from flowbench.forecasting.protocol import fit_scaler, parts
from flowbench.forecasting.series import Series
from flowbench.forecasting.windows import WindowFeed, open_windows

MakeSeries = Callable[..., Series]


def data(**keys: Any) -> ForecastData:
    return ForecastData(**{"csv": "made.csv", "lookback": 24, "horizon": 8, "protocol": "ratio", **keys})


@pytest.mark.parametrize(
    ("keys", "counts"),
    [
        ({"protocol": "report", "lookback": 64, "horizon": 24}, (12_107, 2_526, 2_526)),
        ({"protocol": "informer", "lookback": 336, "horizon": 24}, (8_281, 2_857, 2_857)),
        ({"protocol": "informer", "lookback": 336, "horizon": 96}, (8_209, 2_785, 2_785)),
        ({"protocol": "informer", "lookback": 336, "horizon": 720}, (7_585, 2_161, 2_161)),
        ({"protocol": "ratio", "lookback": 336, "horizon": 96}, (11_763, 1_647, 3_389)),
    ],
)
def test_every_window_counts_at_the_borders(
    make_series: MakeSeries, keys: dict[str, Any], counts: tuple[int, ...]
) -> None:
    windows = open_windows(make_series(17_420), data(**keys)).splits
    assert tuple(len(windows[split]) for split in ("train", "validation", "test")) == counts


def test_informer_borders_are_months_of_30_days_whatever_the_step(make_series: MakeSeries) -> None:
    hourly = parts(make_series(14_400), data(protocol="informer"))
    assert (hourly["test"].first, hourly["test"].stop) == (11_520 - 24, 14_400)
    quarter = parts(make_series(57_600, freq="15min"), data(protocol="informer"))
    assert (quarter["train"].stop, quarter["validation"].stop, quarter["test"].stop) == (34_560, 46_080, 57_600)


@pytest.mark.parametrize(("freq", "name"), [("MS", "MS"), ("B", "B"), ("7D", "7 days 00:00:00")])
def test_informer_counts_days_and_refuses_other_steps(make_series: MakeSeries, freq: str, name: str) -> None:
    series = make_series(1000, freq=freq)
    with pytest.raises(InputError, match=f"step is {name}: use data.protocol=ratio"):
        parts(series, data(protocol="informer"))
    assert parts(series, data())["train"].stop == 700
    assert parts(make_series(700, freq="1D"), data(protocol="informer"))["train"].stop == 360


def test_windows_hold_the_rows_they_should(make_series: MakeSeries) -> None:
    series = make_series(300)
    opened = open_windows(series, data(features="M"))
    test = opened.splits["test"]
    history, future = test.batch(torch.tensor([0, len(test) - 1]))
    scaled = opened.scaler.scale(series.values).astype(np.float32)
    assert test.first_origin == 240
    np.testing.assert_array_equal(history[0], scaled[216:240])
    np.testing.assert_array_equal(future[0], scaled[240:248])
    np.testing.assert_array_equal(future[1], scaled[292:300])
    ordered = torch.cat([future for _, future in test.in_order(7)])
    np.testing.assert_array_equal(ordered[-1], scaled[292:300])
    assert len(ordered) == len(test)


def test_windows_are_views_of_one_tensor(make_series: MakeSeries) -> None:
    splits = open_windows(make_series(300), data()).splits.values()
    storages = {view.untyped_storage().data_ptr() for w in splits for view in (w.histories, w.futures)}
    assert len(storages) == 1


@pytest.mark.parametrize(
    ("features", "inputs", "targets"),
    [("M", ("a", "OT", "b"), ("a", "OT", "b")), ("S", ("OT",), ("OT",)), ("MS", ("a", "b", "OT"), ("OT",))],
)
def test_targets_are_the_last_inputs(
    make_series: MakeSeries, features: str, inputs: tuple[str, ...], targets: tuple[str, ...]
) -> None:
    opened = open_windows(make_series(300), data(features=features))
    history, future = opened.splits["train"].batch(torch.arange(5))
    assert opened.series.columns == inputs
    assert opened.targets == targets
    assert history.shape == (5, 24, len(inputs))
    assert future.shape == (5, 8, len(targets))
    following, _ = opened.splits["train"].batch(torch.arange(5) + 8)
    torch.testing.assert_close(future, following[:, -8:, -len(targets) :])


@pytest.mark.parametrize("protocol", ["informer", "ratio"])
def test_changed_test_rows_change_no_scaler_and_no_training_window(make_series: MakeSeries, protocol: str) -> None:
    series = make_series(14_400)
    settings = data(protocol=protocol)
    first_test_row = parts(series, settings)["test"].first + settings.lookback
    values = series.values.copy()
    values[first_test_row:] = 1e6
    before, after = open_windows(series, settings), open_windows(replace(series, values=values), settings)
    assert before.scaler == after.scaler
    for split in ("train", "validation"):
        assert torch.equal(before.splits[split].futures, after.splits[split].futures)
        assert torch.equal(before.splits[split].histories, after.splits[split].histories)


def test_the_report_scaler_sees_the_whole_file_and_its_windows_stay_inside(make_series: MakeSeries) -> None:
    series = make_series(1000)
    settings = data(protocol="report")
    scaler = fit_scaler(series, settings)
    np.testing.assert_allclose(scaler.mean, series.values.mean(axis=0))
    np.testing.assert_allclose(scaler.std, series.values.std(axis=0))
    found = parts(series, settings)
    assert (found["test"].first, found["test"].stop) == (0, 150)
    assert (found["validation"].first, found["train"].first) == (150, 300)


def test_unscaling_undoes_scaling_and_a_constant_column_survives(make_series: MakeSeries) -> None:
    series = make_series(300)
    series.values[:, 0] = 3
    scaler = fit_scaler(series, data())
    np.testing.assert_allclose(scaler.unscale(scaler.scale(series.values)), series.values)
    assert scaler.std[0] == 1


@pytest.mark.parametrize("protocol", ["ratio", "report"])
@pytest.mark.parametrize("value", [0.1, -1e9 / 3, 1e-30, 0.0])
def test_a_column_that_is_constant_up_to_rounding_is_divided_by_one_and_named(
    make_series: MakeSeries, protocol: str, value: float
) -> None:
    """sklearn's StandardScaler is the reference, column by column."""
    series = make_series(600)
    series.values[:, 2] = value
    if protocol == "ratio":
        series.values[560:, 2] = 2 * value + 1  # after the training rows
    settings = data(protocol=protocol)
    scaler = fit_scaler(series, settings)
    sklearn = StandardScaler().fit(series.values[: parts(series, settings)["train"].stop])
    np.testing.assert_allclose(scaler.std, sklearn.scale_, rtol=1e-12)
    assert (scaler.std[2], scaler.constant) == (1, ("b",))
    assert scaler.select(("b", "a")).constant == ("b",)
    assert scaler.select(("a", "OT")).notes == []
    assert ["b" in note for note in scaler.notes] == [True]


def test_small_changes_that_are_no_rounding_keep_their_own_scale(make_series: MakeSeries) -> None:
    series = make_series(600)
    series.values[:, 0] = 0.1 + 1e-9 * np.sin(np.arange(600))
    scaler = fit_scaler(series, data())
    assert scaler.std == tuple(series.values[:420].std(axis=0))
    assert scaler.constant == ()


def test_another_files_scaler_and_column_order_are_used(make_series: MakeSeries) -> None:
    train, other = make_series(300), make_series(300, seed=1)
    scaler = fit_scaler(train, data())
    opened = open_windows(other.select(("b", "a", "OT")), data(), scaler=scaler)
    assert opened.series.columns == train.columns
    expected = torch.from_numpy(scaler.scale(other.values)).float()[:24]
    torch.testing.assert_close(opened.splits["train"].batch(torch.tensor([0]))[0][0], expected)


@pytest.mark.parametrize("protocol", ["report", "ratio", "informer"])
def test_a_short_file_is_told_how_many_rows_it_needs(make_series: MakeSeries, protocol: str) -> None:
    settings = data(protocol=protocol)
    with pytest.raises(InputError, match="needs") as caught:
        parts(make_series(30), settings)
    found = re.search(r"needs ([\d,]+) rows: choose shorter ones(, or data\.protocol=ratio)?", str(caught.value))
    assert found is not None
    assert (found[2] is None) == (protocol == "ratio")
    needed = int(found[1].replace(",", ""))
    assert all(part.windows(24, 8) > 0 for part in parts(make_series(needed), settings).values())
    with pytest.raises(InputError):
        parts(make_series(needed - 1), settings)


def test_windows_longer_than_the_protocols_parts_are_refused(make_series: MakeSeries) -> None:
    with pytest.raises(InputError, match=r"data\.lookback 9000.*data\.protocol=ratio"):
        parts(make_series(14_400), data(protocol="informer", lookback=9000))


def test_an_unknown_target_is_named(make_series: MakeSeries) -> None:
    with pytest.raises(InputError, match=r"data\.target: no column 'OTT'; did you mean OT"):
        open_windows(make_series(300), data(features="S", target="OTT"))


def test_training_order_is_a_function_of_seed_epoch_and_step(make_series: MakeSeries) -> None:
    windows = open_windows(make_series(300), data()).splits["train"]
    feed, again = (WindowFeed(windows, batch_size=16, seed=3) for _ in range(2))
    n = feed.steps_per_epoch
    epochs = [torch.cat([feed.indices(e * n + s) for s in range(n)]) for e in range(2)]
    assert all(len(epoch.unique()) == n * 16 for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(again.indices(n + 2), feed.indices(n + 2))
    assert torch.equal(again.indices(1), feed.indices(1))
    assert not torch.equal(WindowFeed(windows, batch_size=16, seed=4).indices(0), feed.indices(0))
