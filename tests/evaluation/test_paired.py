"""Verdicts on simulated and real values: equal models tie, true differences are found, error bars are right."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from flowbench.errors import InputError
from flowbench.evaluation.paired import compare_values

IMAGES = 10_000


def real_values() -> np.ndarray:
    """Bits/dim of CIFAR-10's 10,000 test images, two seeds of a Real NVP of 8 features and 60 steps, (2, 10000)."""
    return np.load(Path(__file__).parent / "values" / "cifar10-small.npy").astype(np.float64)


def test_the_paired_error_is_that_of_the_differences_and_far_smaller_than_the_unpaired() -> None:
    generator = np.random.default_rng(0)
    a = generator.normal(3.5, 0.7, 500)
    b = a + generator.normal(0.01, 0.1, 500)
    paired = compare_values([a], [b])
    test = scipy.stats.ttest_rel(a, b)
    assert paired.difference == pytest.approx((a - b).mean())
    assert paired.item_stderr == paired.stderr == pytest.approx((a - b).std(ddof=1) / 500**0.5)
    assert paired.p_value == pytest.approx(test.pvalue)
    assert paired.unpaired_stderr == pytest.approx(np.hypot(scipy.stats.sem(a), scipy.stats.sem(b)))
    assert paired.unpaired_stderr > 5 * paired.stderr


def test_several_seeds_add_their_spread_as_welch_does() -> None:
    generator = np.random.default_rng(1)
    a, b = ([generator.normal(2, 1e-9, 50) + shift for shift in shifts] for shifts in ((0.0, 0.1, 0.2), (1.0, 1.3)))
    paired = compare_values(a, b)
    welch = scipy.stats.ttest_ind([one.mean() for one in a], [one.mean() for one in b], equal_var=False)
    assert paired.seed_stderr == pytest.approx((0.1**2 / 3 + 0.3**2 / 2 / 2) ** 0.5, rel=1e-6)
    assert paired.p_value == pytest.approx(welch.pvalue, rel=1e-3)


def test_two_seeds_of_one_config_are_a_tie_in_95_of_100() -> None:
    values, generator = real_values(), np.random.default_rng(2)
    base, difference = values.mean(0), values[0] - values[1]
    noise = (difference - difference.mean()) / np.sqrt(2)  # what one run adds to an image, centred
    ties = 0
    for _ in range(100):
        one, other = (base + generator.permutation(noise) for _ in range(2))
        ties += compare_values([one], [other]).verdict == "tie"
    assert ties >= 95


def test_three_seeds_each_of_one_config_are_a_tie_in_95_of_100_although_training_runs_differ() -> None:
    values, generator = real_values(), np.random.default_rng(3)
    base, difference = values.mean(0), values[0] - values[1]
    noise = (difference - difference.mean()) / np.sqrt(2)
    ties = 0
    for _ in range(100):
        runs = [base + generator.permutation(noise) + generator.normal(0, 0.02) for _ in range(6)]
        ties += compare_values(runs[:3], runs[3:]).verdict == "tie"
    assert ties >= 95


def test_a_true_difference_of_two_hundredths_over_ten_thousand_images_is_found() -> None:
    values = real_values()
    assert values.shape == (2, IMAGES)
    shifted = values[1] - (values[1] - values[0]).mean() + 0.02
    assert compare_values([values[0]], [shifted]).verdict == "better"
    assert compare_values([shifted], [values[0]]).verdict == "worse"
    paired = compare_values([values[0]], [shifted])
    assert paired.stderr < paired.unpaired_stderr / 4


def test_a_tie_says_how_many_images_would_settle_it_and_that_many_do() -> None:
    generator = np.random.default_rng(4)
    a = generator.normal(0, 1, 400)
    b = a + generator.normal(0, 0.2, 400)
    tie = compare_values([a], [b + (a - b).mean() - 0.015])  # A − B is 0.015
    assert tie.verdict == "tie"
    assert tie.items_needed is not None
    assert tie.items_needed > 400
    settled = 0
    for _ in range(60):
        differences = generator.normal(0.015, (a - b).std(ddof=1), tie.items_needed)
        zeros = np.zeros(tie.items_needed)
        settled += compare_values([differences], [zeros]).verdict == "worse"
    assert 60 * 0.65 < settled < 60 * 0.95


def test_equal_values_are_a_tie_that_nothing_settles() -> None:
    values = np.random.default_rng(5).normal(size=50)
    same = compare_values([values], [values])
    assert (same.verdict, same.difference, same.p_value, same.items_needed) == ("tie", 0.0, 1.0, None)


def losses(generator: np.random.Generator, horizon: int = 24, windows: int = 1500) -> np.ndarray:
    """Mean absolute errors of overlapping windows: moving means of errors that are themselves persistent."""
    shocks = generator.normal(size=windows + horizon + 200)
    errors = scipy.signal.lfilter([1], [1, -0.5], shocks)[200:]
    return np.convolve(np.abs(errors), np.ones(horizon) / horizon, "valid")[:windows]


def test_overlapping_windows_of_equal_forecasts_are_a_tie_in_95_of_100() -> None:
    generator = np.random.default_rng(6)
    pairs = [(losses(generator), losses(generator)) for _ in range(100)]
    assert sum(compare_values([a], [b], horizon=24).verdict == "tie" for a, b in pairs) >= 95
    # As if windows were independent, most of the same pairs would differ "significantly".
    assert sum(compare_values([a], [b]).verdict == "tie" for a, b in pairs) < 50


def test_several_seeds_need_as_many_as_students_t_asks_for() -> None:
    generator = np.random.default_rng(8)
    a, b = ([np.full(50, mean) + generator.normal(0, 1e-6, 50) for mean in means] for means in ((0, 1, 2), (1, 2, 3)))
    tie = compare_values(a, b)
    assert (tie.verdict, tie.items_needed) == ("tie", None)
    # s = 1 on both sides and a difference of 1: 2 (k − 1) degrees of freedom, and an error of √(2/k).
    power = {
        k: scipy.stats.nct.sf(scipy.stats.t.ppf(0.995, 2 * k - 2), 2 * k - 2, math.sqrt(k / 2)) for k in range(3, 60)
    }
    assert tie.seeds_needed == min(k for k in power if power[k] >= 0.8)


def test_other_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="measured on 3 and 4 images"):
        compare_values([np.zeros(3)], [np.zeros(4)])
