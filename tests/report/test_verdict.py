import math

import pytest

from flowbench.config import load_experiment
from flowbench.report.verdict import noise, shortfall, verdict
from tests.report.test_report import row


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3.61, "0.12 bits/dim above Real NVP's 3.49"),
        (3.37, "0.12 bits/dim below Real NVP's 3.49"),
        (3.51, "within noise of Real NVP's 3.49"),
    ],
)
def test_the_difference_is_said_in_words(value: float, words: str) -> None:
    assert verdict(row(value=value)) == words


def test_noise_is_the_95_percent_interval_and_the_rounding_of_what_was_published() -> None:
    assert noise(row()) == pytest.approx(1.96 * 0.01 + 0.005)
    over_seeds = row(seeds=[0, 1, 2, 3], seed_std=0.02)
    assert noise(over_seeds) == pytest.approx(1.96 * math.hypot(0.01, 0.02 / 2) + 0.005)
    assert noise(row(reproduces=None)) == pytest.approx(1.96 * 0.01)


def test_a_forecast_is_compared_with_its_lookback_and_three_decimals() -> None:
    published = [{"model": "NLinear", "value": 0.39, "bound": "=", "split": "test", "lookback": 336, "source": "Zeng"}]
    forecast = row(metric="mae", value=0.3903, stderr=None, lookback=96, published=published, reproduces="NLinear")
    assert verdict(forecast) == "within noise of NLinear's 0.390, which looks back 336 steps"
    assert verdict({**forecast, "value": 0.392, "lookback": 336}) == "0.002 MAE above NLinear's 0.390"


def test_no_reference_no_figure_and_bounds_are_said() -> None:
    assert verdict(row(reproduces=None)) == "no published figure"
    assert verdict(row(status="skipped", value=None, reason="cifar10 is not here")) == "cifar10 is not here"
    assert verdict(row(reproduces="Conv DRAW")).endswith("Conv DRAW's < 3.59, which is an upper bound")


def test_what_was_less_than_the_preset_is_said_for_custom_runs_alone() -> None:
    small = load_experiment("real_nvp/cifar10", ["train.epochs=3", "model.features=16", "seed=4"])
    short = shortfall(row(), {"epochs": 3.0, "steps": 2346}, small)
    assert short.startswith("trained 3 of ")
    assert short.endswith(" epochs, model.features 16 instead of 64")
    assert verdict(row(), short).startswith("0.12 bits/dim above Real NVP's 3.49; trained 3 of ")
    assert shortfall(row(budget="paper"), {"epochs": 3.0}, small) == ""


def test_a_training_that_its_own_patience_ended_was_no_shorter_than_asked_for() -> None:
    result = {"epochs": 4.0, "steps": 1024}
    assert shortfall(row(), result, load_experiment("etth/dlinear")) == ""
    assert shortfall(row(), result | {"time_budget": 9.0}, load_experiment("etth/dlinear")) == "trained 4 of 10 epochs"
    assert shortfall(row(), result, load_experiment("etth/dlinear", ["train.epochs=4"])) == "trained 4 of 10 epochs"


def test_many_changes_are_counted_not_listed() -> None:
    keys = ["model.features=16", "model.residual_blocks=1", "optim.lr=0.1", "data.flip=false", "optim.clip_norm=7"]
    short = shortfall(row(), {"epochs": 1e6}, load_experiment("real_nvp/cifar10", keys))
    assert short.count("instead of") == 4
    assert short.endswith("1 more settings changed")
