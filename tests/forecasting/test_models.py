import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from flowbench.config.registry import forecasters
from flowbench.config.schema import ForecastData
from flowbench.errors import InputError
from flowbench.forecasting.forecaster import Forecaster
from flowbench.forecasting.models.linear import MovingAverage
from flowbench.forecasting.series import Series
from flowbench.forecasting.windows import open_windows

MakeSeries = Callable[..., Series]
SMALL: dict[str, dict[str, Any]] = {
    "lstm2lstm": {"hidden": 8},
    "itransformer": {"width": 8, "hidden": 8, "layers": 1, "dropout": 0.0},
    "nlinear_flow": {"features": 8},
    "lstm_flow": {"hidden": 8, "features": 8},
    "patchtst": {"width": 8, "hidden": 8, "layers": 1, "dropout": 0.0},
}
LEARNED = ["linear", "nlinear", "dlinear", "lstm2lstm", "patchtst", "itransformer"]
NAIVE = ["repeat_last", "seasonal_naive", "mean"]
DISTRIBUTIONS = ["gaussian", "empirical", "nlinear_flow", "lstm_flow"]
"""See test_distributions.py too."""


def build(name: str, inputs: int = 3, outputs: int = 3, lookback: int = 48, **keys: Any) -> Forecaster:
    torch.manual_seed(0)
    config = forecasters[name](name=name, **{**SMALL.get(name, {}), **keys})
    model: Forecaster = config.build(lookback=lookback, horizon=30, inputs=inputs, outputs=outputs)
    return model


def test_the_lists_above_are_complete() -> None:
    assert sorted(forecasters) == sorted(LEARNED + NAIVE + DISTRIBUTIONS)
    assert sorted(name for name in forecasters if forecasters[name].distributions) == sorted(DISTRIBUTIONS)


@pytest.mark.parametrize("features", ["M", "S", "MS"])
@pytest.mark.parametrize("name", LEARNED + NAIVE + DISTRIBUTIONS)
def test_every_model_handles_every_choice_of_features(make_series: MakeSeries, name: str, features: Any) -> None:
    data = ForecastData(csv="x", protocol="ratio", lookback=48, horizon=30, features=features)
    opened = open_windows(make_series(600), data)
    history, future = opened.splits["train"].batch(torch.arange(4))
    model = build(name, history.shape[2], future.shape[2])
    assert model(history).shape == future.shape
    assert model.training_forward(history, future, torch.Generator()).shape == future.shape
    assert model.fit(opened.splits["train"]) == (name in [*NAIVE, "empirical"])


@pytest.mark.parametrize("normalize", ["none", "last", "standard", "revin"])
@pytest.mark.parametrize("name", LEARNED)
def test_every_learned_model_learns_under_every_normalization(name: str, normalize: str) -> None:
    model = build(name, normalize=normalize)
    history, future = torch.randn(4, 48, 3), torch.randn(4, 30, 3)
    (model.training_forward(history, future, torch.Generator()) - future).square().mean().backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients.values())


@pytest.mark.parametrize("normalize", ["last", "standard", "revin"])
@pytest.mark.parametrize("name", LEARNED)
def test_instance_normalization_carries_a_shift_through(name: str, normalize: str) -> None:
    model = build(name, normalize=normalize).double().eval()
    history = torch.randn(4, 48, 3, dtype=torch.float64)
    shift = torch.tensor([1.0, -20.0, 300.0], dtype=torch.float64)
    torch.testing.assert_close(model(history + shift), model(history) + shift)


def test_revin_carries_a_scale_through() -> None:
    model = build("linear", normalize="revin").double()
    history = torch.randn(4, 48, 3, dtype=torch.float64)
    torch.testing.assert_close(model(history * 50), model(history) * 50, rtol=1e-4, atol=1e-3)


def test_naive_forecasts_are_what_they_say() -> None:
    history = torch.arange(48.0)[None, :, None].expand(1, 48, 3)
    steps = torch.arange(30)
    assert (build("repeat_last")(history) == 47).all()
    assert (build("mean")(history) == 23.5).all()
    assert torch.equal(build("seasonal_naive")(history)[0, :, 0], (24 + steps % 24).float())
    assert torch.equal(build("seasonal_naive", season=7)(history)[0, :, 0], (41 + steps % 7).float())


def test_a_season_is_a_day_of_the_file_and_must_fit() -> None:
    config = forecasters["seasonal_naive"](name="seasonal_naive")
    model = config.build(lookback=96, horizon=4, inputs=1, outputs=1, rows_per_day=96)
    assert torch.equal(model(torch.arange(96.0)[None, :, None])[0, :, 0], torch.arange(4.0))
    with pytest.raises(InputError, match=r"model\.season: 96 rows are more than data\.lookback 95"):
        config.build(lookback=95, horizon=4, inputs=1, outputs=1, rows_per_day=96)


def test_nlinear_is_linear_on_values_minus_the_last() -> None:
    nlinear, linear = build("nlinear"), build("linear")
    history = torch.randn(4, 48, 3)
    last = history[:, -1:]
    torch.testing.assert_close(nlinear(history), linear(history - last) + last)


def test_dlinear_with_equal_maps_is_linear_and_its_trend_pads_with_the_ends() -> None:
    model = build("dlinear")
    model.seasonal.load_state_dict(model.trend.state_dict())
    history = torch.randn(4, 48, 3)
    expected = model.trend(history.transpose(1, 2)).transpose(1, 2) + model.trend.bias[:, None]
    torch.testing.assert_close(model(history), expected)
    ramp = torch.arange(48.0)[None, None]
    assert model.average(ramp)[0, 0, 24] == 24
    assert model.average(ramp)[0, 0, 0] == pytest.approx(sum(range(13)) / 25)


@pytest.mark.parametrize("window", [1, 2, 24, 25])
@pytest.mark.parametrize("rows", [7, 48])
def test_the_moving_average_is_torchs_to_the_last_bit(window: int, rows: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 2, rows)
    padded = functional.pad(values, (window // 2, (window - 1) // 2), mode="replicate")
    torchs = functional.avg_pool1d(padded, window, stride=1)
    average = MovingAverage(window)
    assert torch.equal(average(values), torchs)
    assert torch.equal(average(values.clone().requires_grad_()), torchs)


def test_the_linear_models_alone_know_their_way_back_and_what_moves_them_by_constants() -> None:
    known = {
        name: [key for key in ("none", "last", "revin") if build(name, normalize=key).has_way_back] for name in LEARNED
    }
    assert known.pop("linear") == known.pop("dlinear") == ["none", "last"]
    assert known.pop("nlinear") == ["none", "last"]
    assert not any(known.values())
    assert not any(build(name).has_way_back for name in NAIVE + DISTRIBUTIONS)


@pytest.mark.parametrize("name", ["linear", "nlinear", "dlinear"])
@pytest.mark.parametrize("normalize", ["none", "last"])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 3), (3, 1), (1, 1)])
def test_gradients_by_hand_are_those_of_autograd_to_the_last_bit(
    name: str, normalize: str, inputs: int, outputs: int
) -> None:
    model = build(name, inputs, outputs, lookback=336, normalize=normalize)
    # As windows are fed: the rows of a column lie together.
    history, weights = torch.randn(32, inputs, 336).transpose(1, 2), torch.randn(32, outputs, 30).transpose(1, 2)
    recorded = model(history)
    recorded.backward(weights)
    asked = [parameter.grad for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    forecast, pull_back = model.by_hand(history.clone())
    pull_back(weights)
    assert torch.equal(forecast, recorded)
    assert all(torch.equal(parameter.grad, one) for parameter, one in zip(model.parameters(), asked, strict=True))


@pytest.mark.parametrize(
    ("name", "keys"),
    [("linear", {}), ("nlinear", {}), ("dlinear", {}), ("patchtst", {}), ("patchtst", {"faithful": True})],
)
def test_columns_share_weights_and_do_not_mix(name: str, keys: dict[str, Any]) -> None:
    model = build(name, **keys).eval()
    history = torch.randn(2, 48, 3)
    torch.testing.assert_close(model(history[..., [2, 0, 1]]), model(history)[..., [2, 0, 1]])


def test_the_columns_of_itransformer_are_alike_and_see_each_other() -> None:
    model, history = build("itransformer").eval(), torch.randn(2, 48, 3)
    torch.testing.assert_close(model(history[..., [2, 0, 1]]), model(history)[..., [2, 0, 1]])
    other = history.clone()
    other[..., 0] = torch.randn(2, 48)
    assert not torch.allclose(model(other)[..., 1:], model(history)[..., 1:])


def test_patchtst_has_42_patches_of_336_rows() -> None:
    assert build("patchtst", lookback=336).network.positions.shape[0] == 42


def test_patchtst_has_the_authors_number_of_parameters() -> None:
    """Of their sizes for ETTh1 and 96 steps, counted by hand."""
    config = forecasters["patchtst"](name="patchtst", faithful=True, normalize="standard")
    model = config.build(lookback=336, horizon=96, inputs=7, outputs=7)
    attention, feed, norms = 4 * (16 * 16 + 16), (16 * 128 + 128) + (128 * 16 + 16), 2 * 2 * 16
    by_hand = (16 * 16 + 16) + 42 * 16 + 3 * (attention + feed + norms) + (42 * 16 * 96 + 96)
    assert sum(parameter.numel() for parameter in model.parameters()) == by_hand == 81_728


def test_batch_averages_forget_a_batch_that_is_not_finite() -> None:
    model = build("patchtst", faithful=True)
    averages = {name: value for name, value in model.named_buffers() if "running" in name}
    before = {name: value.clone() for name, value in averages.items()}
    history = torch.randn(4, 48, 3)
    model.train()(history.masked_fill(torch.arange(4).view(-1, 1, 1) == 1, math.inf))
    assert all(torch.equal(averages[name], value) for name, value in before.items())
    model(history)
    assert all(bool(value.isfinite().all()) for value in averages.values())
    assert not any(torch.equal(value, before[name]) for name, value in averages.items())
