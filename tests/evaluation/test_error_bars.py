"""Error bars of few measurements: scipy's own tests are met, and Student's quantiles are those of the tables."""

import math

import numpy as np
import pytest
import scipy.stats

from flowbench.evaluation.error_bars import ErrorBar, joined, over_seeds


def test_three_seeds_are_judged_by_4_30_two_by_12_7_and_what_is_known_by_1_96() -> None:
    quantiles = {3: 4.3027, 2: 12.7062, 10: 2.2622}
    for seeds, quantile in quantiles.items():
        assert over_seeds(1.0, seeds).half_width(0.95) == pytest.approx(quantile / math.sqrt(seeds), rel=1e-4)
    assert ErrorBar(1.0, math.inf).half_width(0.95) == pytest.approx(1.959964)


def test_a_mean_over_seeds_is_tested_as_scipy_does() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 4)
    bar = over_seeds(values.std(ddof=1), 4)
    assert bar.p_value(values.mean()) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue)


@pytest.mark.parametrize(("k", "more"), [(3, 3), (2, 5), (3, 40)])
def test_two_means_over_seeds_are_tested_as_welch_does(k: int, more: int) -> None:
    generator = np.random.default_rng(k)
    a, b = generator.normal(0, 1, k), generator.normal(0.5, 3, more)
    bar = joined([over_seeds(one.std(ddof=1), len(one)) for one in (a, b)])
    welch = scipy.stats.ttest_ind(a, b, equal_var=False)
    assert bar.p_value(a.mean() - b.mean()) == pytest.approx(welch.pvalue)
    assert (bar.freedom, bar.stderr) == pytest.approx((welch.df, math.hypot(*map(scipy.stats.sem, (a, b)))))


def test_the_freedom_of_a_sum_is_that_of_the_part_that_weighs_most() -> None:
    assert joined([ErrorBar(1.0, 2), ErrorBar(1e-6, 9999)]).freedom == pytest.approx(2)
    assert joined([ErrorBar(1e-3, 2), ErrorBar(1.0, 9999)]).freedom == pytest.approx(9999, rel=1e-3)
    assert joined([ErrorBar(0.0, 2), ErrorBar(0.0, 3)]) == ErrorBar(0.0, math.inf)
    assert joined([]).half_width(0.95) == 0


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_power_is_how_often_a_true_difference_is_seen(seeds: int) -> None:
    values = np.random.default_rng(seeds).normal(4, 1, (2000, seeds))
    bars = [over_seeds(one.std(ddof=1), seeds) for one in values]
    seen = np.mean([bar.half_width(0.95) < one.mean() for bar, one in zip(bars, values, strict=True)])
    assert over_seeds(1.0, seeds).power(4.0, 0.95) == pytest.approx(seen, abs=0.035)
    assert over_seeds(1.0, seeds).power(-4.0, 0.95) == over_seeds(1.0, seeds).power(4.0, 0.95)
    assert ErrorBar(1.0, 8).power(54.7, 0.99) == pytest.approx(1)
    assert ErrorBar(1.0, math.inf).power(1.959964 + 0.841621, 0.95) == pytest.approx(0.8, abs=1e-3)


def test_an_error_of_zero_makes_every_difference_certain() -> None:
    assert ErrorBar(0.0, 2).p_value(0.0) == 1
    assert ErrorBar(0.0, 2).p_value(1e-9) == 0
    assert (ErrorBar(0.0, 2).power(0.0, 0.95), ErrorBar(0.0, 2).power(1e-9, 0.95)) == (0, 1)
