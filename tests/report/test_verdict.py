import math

import pytest
import scipy.stats

from flowbench.config.experiments import load_experiment
from flowbench.report.formats import difference
from flowbench.report.verdict import details, noise, reproduced_again, shortfall, verdict
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
    assert noise(row(n=10_000)) == pytest.approx(1.9602 * 0.01 + 0.005, rel=1e-4)
    assert noise(row(n=None, reproduces=None)) == pytest.approx(1.95996 * 0.01, rel=1e-5)
    over_seeds = row(n=10_000, seeds=[0, 1, 2, 3], seed_std=0.02)
    freedom = 0.0002**2 / (0.0001**2 / 3 + 0.0001**2 / 9_999)  # Welch–Satterthwaite: images, and three of four seeds
    quantile = scipy.stats.t.ppf(0.975, freedom)
    assert noise(over_seeds) == pytest.approx(quantile * math.hypot(0.01, 0.02 / 2) + 0.005)


@pytest.mark.parametrize(("seeds", "quantile"), [(2, 12.706), (3, 4.3027), (5, 2.7764)])
def test_few_seeds_are_judged_by_students_t(seeds: int, quantile: float) -> None:
    forecast = row(metric="mae", stderr=None, n=2785, seeds=list(range(seeds)), seed_std=0.02, reproduces=None)
    assert noise(forecast) == pytest.approx(quantile * 0.02 / math.sqrt(seeds), rel=1e-4)


@pytest.mark.parametrize(
    ("published", "value", "deviation", "words"),
    [
        # ETTh1 of the committed table: clear by 1.96, within noise by 4.30.
        (0.399, 0.39468, 0.002867, "within noise of DLinear's 0.399"),
        (0.49, 0.5166, 0.018424, "within noise of DLinear's 0.490"),
        (0.49, 0.5166, 0.0104, "0.0266 MAE above DLinear's 0.490"),
    ],
)
def test_three_seeds_that_vary_as_much_as_the_gap_are_within_noise(
    published: float, value: float, deviation: float, words: str
) -> None:
    theirs = {"model": "DLinear", "value": published, "bound": "=", "split": "test", "lookback": 336, "source": "Zeng"}
    ours = row(metric="mae", value=value, stderr=None, seeds=[0, 1, 2], seed_std=deviation, lookback=336)
    assert verdict(ours | {"published": [theirs], "reproduces": "DLinear"}) == words


def test_a_forecast_is_compared_with_its_lookback_and_three_decimals() -> None:
    published = [{"model": "NLinear", "value": 0.39, "bound": "=", "split": "test", "lookback": 336, "source": "Zeng"}]
    forecast = row(metric="mae", value=0.3903, stderr=None, lookback=96, published=published, reproduces="NLinear")
    assert (verdict(forecast), details(forecast)) == ("within noise of NLinear's 0.390", "NLinear looks back 336 steps")
    assert verdict({**forecast, "value": 0.392, "lookback": 336}) == "0.002 MAE above NLinear's 0.390"


@pytest.mark.parametrize(
    ("value", "deviation", "words", "below"),
    [
        # DLinear on ETTh1, 720 steps: its paper's figure does not come out of its own program.
        (0.5166, 0.0104, "reproduces its authors' program", "today; 0.0266 MAE above DLinear's 0.490"),
        (0.5166, 0.0184, "within noise of DLinear's 0.490", "today"),
        (0.54, 0.004, "0.05 MAE above DLinear's 0.490", "today"),
        # One seed of theirs: 0.5146 + 4.303 * 0.004 * sqrt(4 / 3) + 0.0005 = 0.53498
        (0.5349, 0.004, "reproduces its authors' program", "today; 0.0449 MAE above DLinear's 0.490"),
        (0.5351, 0.004, "0.0451 MAE above DLinear's 0.490", "today"),
    ],
)
def test_what_the_authors_program_gives_today_is_a_second_ruler(
    value: float, deviation: float, words: str, below: str
) -> None:
    rerun = {"value": 0.5146, "version": "torch 2.14.1", "seed": 2021, "source": "LTSF-Linear"}
    theirs = {"model": "DLinear", "value": 0.49, "bound": "=", "split": "test", "lookback": 336, "source": "Zeng"}
    ours = row(metric="mae", value=value, stderr=None, seeds=[0, 1, 2], seed_std=deviation, lookback=336)
    row_of_ours = ours | {"published": [theirs | {"rerun": rerun}], "reproduces": "DLinear"}
    assert verdict(row_of_ours) == words
    assert details(row_of_ours) == f"its authors' program gives 0.515 {below}"
    assert reproduced_again(row_of_ours | {"seed_std": None}) is None


def test_no_reference_no_figure_and_bounds_are_said() -> None:
    assert verdict(row(reproduces=None)) == "compared with no published figure"
    missing = row(status="skipped", value=None, reason="cifar10 is not here")
    assert verdict(missing) == details(missing) == ""
    bounded = row(reproduces="Conv DRAW")
    assert verdict(bounded).endswith("Conv DRAW's < 3.59")
    assert details(bounded) == "Conv DRAW's figure is an upper bound"


def test_a_small_evaluation_is_compared_with_nothing() -> None:
    limited = row(value=3.61, badges=["limited", "custom"], labels={"limited": "64 of 10,000"})
    assert verdict(limited) == "compared with nothing: a small evaluation"
    assert details(limited) == "of 64 of 10,000"
    assert difference(limited) is None


def test_a_figure_of_another_task_is_compared_with_nothing() -> None:
    other = row(value=3.1, badges=["other task", "custom"])
    assert (verdict(other), difference(other)) == ("compared with nothing: another task", None)


def test_what_was_less_than_the_preset_is_said_for_custom_runs_alone() -> None:
    small = load_experiment("real_nvp/cifar10", ["train.epochs=3", "model.features=16", "seed=4"])
    short = shortfall(row(), {"epochs": 3.0, "steps": 2346}, small)
    assert short.startswith("trained 3 of ")
    assert short.endswith(" epochs, model.features 16 instead of 64")
    assert verdict(row()) == "0.12 bits/dim above Real NVP's 3.49"
    assert details(row(), short) == short
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
