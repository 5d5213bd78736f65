"""Forecasters of distributions: densities that integrate to one, samples that follow them, and what is fitted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from flowbench.config.registry import forecasters
from flowbench.config.schema import ForecastData
from flowbench.errors import InputError
from flowbench.forecasting.distribution import DistributionForecaster
from flowbench.forecasting.metrics import measure, measure_nll, metrics, nll_under
from flowbench.forecasting.models.linear import NLinear
from flowbench.forecasting.protocol import fit_scaler
from flowbench.forecasting.series import Series
from flowbench.forecasting.windows import Windows, open_windows

MakeSeries = Callable[..., Series]
DATA = ForecastData(csv="x", protocol="ratio", lookback=24, horizon=4)
COUPLED = {"couplings": 2, "features": 8, "context": 4}
DENSITIES: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "nlinear_flow": COUPLED,
    "lstm_flow": {**COUPLED, "hidden": 4},
    "lstm_flow, mixed": {**COUPLED, "hidden": 4, "channels": "mixed"},
}


def build(name: str, outputs: int = 3, horizon: int = 4, lookback: int = 24, **keys: Any) -> DistributionForecaster:
    torch.manual_seed(0)
    model = name.partition(",")[0]
    config = forecasters[model](name=model, **{**DENSITIES.get(name, {}), **keys})
    built = config.build(lookback=lookback, horizon=horizon, inputs=outputs, outputs=outputs)
    assert isinstance(built, DistributionForecaster)
    assert config.distributions
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return built.double().eval()


def history(batch: int = 3, lookback: int = 24, columns: int = 3) -> Tensor:
    return torch.randn(batch, lookback, columns, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("horizon", [1, 2])
def test_the_density_of_a_toys_future_integrates_to_one(name: str, horizon: int) -> None:
    model, past = build(name, outputs=1, horizon=horizon, lookback=4), history(1, 4, columns=1)
    with torch.no_grad():
        drawn = model.sample(past, 200, torch.Generator().manual_seed(0))[:, 0, :, 0]
        centre, reach = drawn.mean(dim=0), 12 * drawn.std(dim=0)
        steps = 1001 if horizon == 1 else 161
        axes = [torch.linspace(-1, 1, steps, dtype=torch.float64) * r + c for r, c in zip(reach, centre, strict=True)]
        grid = torch.cartesian_prod(*axes).view(-1, horizon, 1)
        density = model.log_prob(grid, past.expand(len(grid), -1, -1)).exp()
    cell = float(torch.stack([axis[1] - axis[0] for axis in axes]).prod())
    assert float(density.sum()) * cell == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", [name for name in DENSITIES if name != "gaussian"])
def test_the_log_density_is_that_of_the_jacobian(name: str) -> None:
    model, past = build(name), history(1)
    latent = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def future_of(z: Tensor) -> Tensor:
        # The way of a sample, with this latent in the place of the noise.
        drawn, torch.randn = torch.randn, lambda *_, **__: z.view(1, 1, 12)
        try:
            return model.sample(past, 1)[0, 0].flatten()
        finally:
            torch.randn = drawn

    jacobian = torch.autograd.functional.jacobian(future_of, latent)
    expected = stats.norm.logpdf(latent.numpy()).sum() - float(torch.linalg.slogdet(jacobian).logabsdet)
    with torch.no_grad():
        found = model.log_prob(future_of(latent).view(1, 4, 3), past)
    assert float(found) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", DENSITIES)
def test_shapes_gradients_and_parts(name: str) -> None:
    model, past = build(name), history()
    future = history(3, 4)
    log_prob = model.log_prob(future, past)
    assert log_prob.shape == (3,)
    torch.testing.assert_close(model.log_prob_by_value(future, past).sum(dim=(1, 2)), log_prob)
    (-log_prob.mean()).backward()
    trained = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None and torch.isfinite(g).all() and g.abs().sum() > 0 for g in trained.values())
    drawn = model.sample(past, 5, torch.Generator().manual_seed(0))
    assert drawn.shape == (5, 3, 4, 3)
    assert torch.equal(drawn, model.sample(past, 5, torch.Generator().manual_seed(0)))
    assert not torch.equal(drawn, model.sample(past, 5, torch.Generator().manual_seed(1)))
    assert model.sample(past, 0).shape == (0, 3, 4, 3)
    assert model(past).shape == (3, 4, 3)
    torch.testing.assert_close(model(past)[1:2], model(past[1:2]))  # whatever else is in the batch


@pytest.mark.parametrize("name", DENSITIES)
def test_samples_follow_the_density(name: str) -> None:
    model, past = build(name, outputs=1, horizon=1, lookback=4), history(1, 4, columns=1)
    with torch.no_grad():
        drawn = model.sample(past, 4000, torch.Generator().manual_seed(0))[:, 0, 0, 0]
        axis = torch.linspace(float(drawn.min()) - 1, float(drawn.max()) + 1, 2001, dtype=torch.float64)
        density = model.log_prob(axis.view(-1, 1, 1), past.expand(2001, -1, -1)).exp()
        cdf = torch.cumulative_trapezoid(density, axis)
    assert stats.kstest(drawn.numpy(), lambda x: np.interp(x, axis[1:], cdf)).pvalue > 1e-3


@pytest.mark.parametrize("name", DENSITIES)
def test_the_mean_is_that_of_the_samples(name: str) -> None:
    model, past = build(name), history(1)
    with torch.no_grad():
        drawn = model.sample(past, 4000, torch.Generator().manual_seed(0))
        error = drawn.std(dim=0) * (1 / 4000 + (1 / 99 if model.sampled_mean else 0)) ** 0.5
        assert ((model(past) - drawn.mean(dim=0)).abs() < 5 * error).all()
        normal = model.normal(past)
        assert (normal is None) == (name != "gaussian")
        if normal is not None:
            assert ((normal[1] / drawn.std(dim=0) - 1).abs() < 0.08).all()


def opened(make_series: MakeSeries) -> dict[Any, Windows]:
    return open_windows(make_series(600), DATA).splits


def test_least_squares_are_no_worse_than_any_other_weights(make_series: MakeSeries) -> None:
    windows = opened(make_series)["train"]
    model = NLinear(forecasters["gaussian"](name="gaussian").build(lookback=24, horizon=4, inputs=3, outputs=3).shape)
    model.fit_least_squares(windows)
    best = measure(model, windows).squared.mean()
    pasts, futures = windows.batch(torch.arange(len(windows)))
    moved, last = pasts - pasts[:, -1:], pasts[:, -1:]
    x = moved.transpose(1, 2).flatten(0, 1).double().numpy()
    y = (futures - last).transpose(1, 2).flatten(0, 1).double().numpy()
    expected = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    assert best == pytest.approx(((np.c_[x, np.ones(len(x))] @ expected - y) ** 2).mean(), rel=1e-4)


@pytest.mark.parametrize("name", ["gaussian", "nlinear_flow"])
def test_nlinear_is_fitted_before_the_steps(make_series: MakeSeries, name: str) -> None:
    windows = opened(make_series)["train"]
    model = build(name).float()
    assert model.fit(windows) is False
    reference = NLinear(model.shape)
    reference.fit_least_squares(windows)
    assert torch.equal(model.mean.network.map.weight, reference.network.map.weight)
    assert model.mean.network.map.weight.requires_grad == (name == "gaussian")


def test_empirical_draws_whole_paths_of_the_training_part(make_series: MakeSeries) -> None:
    splits = opened(make_series)
    config = forecasters["empirical"](name="empirical", paths=50)
    model = config.build(lookback=24, horizon=4, inputs=3, outputs=3)
    assert model.fit(splits["train"]) is True
    past, future = splits["train"].batch(torch.arange(len(splits["train"])))
    seen = future - past[:, :4]  # a day before
    drawn = model.sample(past[:2], 30, torch.Generator().manual_seed(0)) - past[:2, :4]
    apart = (drawn.flatten(0, 1).flatten(1).unsqueeze(1) - seen.flatten(1)).abs().amax(dim=2).amin(dim=1)
    assert (apart < 1e-5).all()
    torch.testing.assert_close(model(past[:2]), past[:2, :4] + model.residuals.mean(dim=0))
    with pytest.raises(InputError, match="samples, not a density"):
        model.log_prob(future, past)
    few = forecasters["empirical"](name="empirical", paths=1000).build(lookback=24, horizon=4, inputs=3, outputs=3)
    few.fit(splits["train"])
    assert few.residuals.abs().sum(dim=(1, 2)).min() > 0


def test_metrics_of_a_distribution_stand_beside_those_of_its_mean(make_series: MakeSeries) -> None:
    windows = open_windows(make_series(600), DATA)
    model = build("gaussian").float()
    model.fit(windows.splits["train"])
    errors = measure(model, windows.splits["test"])
    found = metrics(errors, windows.scaler)
    assert errors.columns == ("mae", "mse", "nll", "crps", "coverage_50", "coverage_90", "mae_median")
    for place, name in enumerate(errors.columns):
        metric = found[name]
        assert (metric["stderr"], metric["n"]) == (None, 117)
        assert metric["value"] == pytest.approx(errors.per_window[:, place].mean())
        assert np.mean(metric["per_step"]) == pytest.approx(metric["value"])
        assert np.mean(list(metric["per_column"].values())) == pytest.approx(metric["value"])
        assert list(metric["per_column"]) == ["a", "OT", "b"]
        assert len(metric["per_step"]) == 4
    past, future = windows.splits["test"].batch(torch.arange(117))
    with torch.no_grad():
        by_hand = -model.log_prob(future, past).mean() / 12
    assert found["nll"]["value"] == pytest.approx(float(by_hand), rel=1e-5)
    assert measure_nll(model, windows.splits["test"]) == pytest.approx(float(by_hand), rel=1e-5)
    assert (found["crps"]["samples"], found["crps"]["monte_carlo_error"]) == (None, None)


def test_without_a_density_nll_is_null_and_samples_say_their_number_and_error(make_series: MakeSeries) -> None:
    windows = open_windows(make_series(600), DATA)
    model = forecasters["empirical"](name="empirical").build(lookback=24, horizon=4, inputs=3, outputs=3)
    model.fit(windows.splits["train"])
    errors = measure(model, windows.splits["test"])
    found = metrics(errors, windows.scaler)
    assert "nll" not in errors.columns
    assert found["nll"] == {"value": None, "stderr": None, "n": 117, "per_step": None, "per_column": None}
    assert found["crps"]["samples"] == 99
    assert 0 < found["crps"]["monte_carlo_error"] < 0.02 * found["crps"]["value"]
    # Another seed, other samples; the mean is exact.
    again = metrics(measure(model, windows.splits["test"], seed=1), windows.scaler)
    assert again["mae"] == found["mae"]
    apart = abs(again["crps"]["value"] - found["crps"]["value"])
    assert 0 < apart < 5 * found["crps"]["monte_carlo_error"]
    assert metrics(measure(model, windows.splits["test"], 7), windows.scaler) == found


def test_the_nll_under_another_scaler_is_that_of_the_density_of_other_units(make_series: MakeSeries) -> None:
    train, other = make_series(600), make_series(600, seed=5)
    scaler, own = fit_scaler(train, DATA), fit_scaler(other, DATA)
    model, exact = build("gaussian").float(), build("gaussian")
    windows = open_windows(other, DATA, scaler=scaler).splits["test"]
    past, future = (part.double() for part in windows.batch(torch.arange(len(windows))))
    ratio = torch.tensor(scaler.std) / torch.tensor(own.std)
    with torch.no_grad():
        mean, deviation = exact.normal(past)
        shift = (torch.tensor(scaler.mean) - torch.tensor(own.mean)) / torch.tensor(own.std)
        expected = -stats.norm.logpdf(future * ratio + shift, mean * ratio + shift, deviation * ratio).mean(axis=(0, 1))
    found = nll_under(measure(model, windows), scaler, own)
    assert list(found["per_column"].values()) == pytest.approx(expected.tolist(), rel=1e-5)
    assert found["value"] == pytest.approx(expected.mean(), rel=1e-5)
    assert found["value"] != pytest.approx(measure_nll(model, windows), abs=1e-3)
