import json
from pathlib import Path

import numpy as np
import pytest

from flowbench.errors import InputError
from flowbench.throughput.comparison import compare, gate, not_judged, regression
from flowbench.throughput.statistics import interval, ratio, slowdown_p_value
from tests.throughput.results import content, entry

NOISE = json.loads((Path(__file__).parent / "noise.json").read_text())
"""Figures of a training pass on a busy machine (300 repetitions while six times as many jobs as cores were running)."""
REPEATS = 40
RUNS = 100


def noisy_run(rng, slower=1.0, metric="floor_ratio"):
    """A run's figures: neighbours in the record, as noise of one moment resembles that of the next."""
    recorded = np.asarray(NOISE[metric])
    start = rng.integers(0, len(recorded) - REPEATS)
    return recorded[start : start + REPEATS] * (slower if metric == "floor_ratio" else 1 / slower)


def alarms(slower):
    """In how many of 100 pairs of runs the gate fails."""
    rng = np.random.default_rng(1)
    count = 0
    for _ in range(RUNS):
        before, now = content(entry(noisy_run(rng))), content(entry(noisy_run(rng, slower)))
        count += any(one.failed for one in gate(now, before, max_slowdown=0.05, metric="floor_ratio"))
    return count


def test_a_slowdown_of_10_percent_is_caught_on_recorded_noise():
    assert alarms(slower=1.10) >= 95


def test_no_change_is_not_flagged_on_recorded_noise():
    assert alarms(slower=1.0) <= 1


def test_a_clear_slowdown_within_the_limit_passes():
    rng = np.random.default_rng(0)
    before, now = (entry(level * rng.normal(1, 0.001, 20)) for level in (1.5, 1.5 * 1.03))
    (verdict,) = gate(content(now), content(before), max_slowdown=0.05, metric="floor_ratio")
    assert not verdict.failed
    assert verdict.slowdown == pytest.approx(1.03, abs=0.002)
    assert verdict.p_value < 1e-6
    (verdict,) = gate(content(now), content(before), max_slowdown=0.02, metric="floor_ratio")
    assert verdict.failed


def test_more_passes_ask_for_clearer_evidence():
    rng = np.random.default_rng(3)
    before, now = rng.normal(1, 0.06, 8), rng.normal(1.1, 0.06, 8)
    p_value = slowdown_p_value(now, before)
    assert 0.01 / 3 < p_value < 0.01
    others = [entry(np.linspace(1, 1.01, 8), batch=batch) for batch in (32, 64)]
    alone = gate(content(entry(now)), content(entry(before)), max_slowdown=0.05, metric="floor_ratio")
    together = gate(
        content(entry(now), *others), content(entry(before), *others), max_slowdown=0.05, metric="floor_ratio"
    )
    assert [one.failed for one in alone] == [True]
    assert [one.failed for one in together] == [False, False, False]


def test_one_disturbed_repetition_decides_nothing():
    before = np.linspace(1, 1.02, 10)
    now = before.copy()
    now[3] = 30
    assert slowdown_p_value(now, before) > 0.01


def test_the_message_says_which_pass_how_much_and_since_when():
    before, now = entry(np.linspace(1, 1.02, 10)), entry(np.linspace(1.2, 1.22, 10))
    baseline = content(before, commit="0123456789abcdef" + 24 * "0")
    verdicts = gate(content(now), baseline, max_slowdown=0.05, metric="floor_ratio")
    message = regression(verdicts, baseline, 0.05)
    assert "real_nvp/digits train, batch 16, precision 32: 19.8% slower" in message
    assert "0123456789" in message
    assert regression([], baseline, 0.05) is None


def test_what_only_the_baseline_timed_is_named():
    both, dropped = entry([1.0] * 5), entry([1.0] * 5, batch=32)
    assert not_judged(content(both), content(both, dropped)) == (
        "not judged, since only the baseline has them: real_nvp/digits train, batch 32, precision 32"
    )
    assert not_judged(content(both, dropped), content(both)) is None


def test_images_per_second_are_slower_when_they_are_fewer():
    before, now = entry(np.linspace(1, 1.02, 10)), entry(np.linspace(1.2, 1.22, 10))
    (verdict,) = gate(content(now), content(before), max_slowdown=0.05, metric="images_per_second")
    assert verdict.failed
    assert verdict.slowdown == pytest.approx(1.198, abs=0.01)
    (verdict,) = gate(content(before), content(now), max_slowdown=0.05, metric="images_per_second")
    assert not verdict.failed


@pytest.mark.parametrize(
    ("now", "before", "metric", "words"),
    [
        (content(entry([1.0] * 5, batch=32)), content(entry([1.0] * 5)), "floor_ratio", "no entry for real_nvp/digits"),
        (content(entry([1.0] * 4)), content(entry([1.0] * 5)), "floor_ratio", "fewer than 5"),
        (content(entry([1.0] * 5, parameters=7)), content(entry([1.0] * 5)), "floor_ratio", "7 parameters"),
        (content(entry([1.0] * 5, floor_ratio=None)), content(entry([1.0] * 5)), "floor_ratio", "images_per_second"),
        (content(entry([1.0] * 5), threads=2), content(entry([1.0] * 5)), "images_per_second", "threads is 2"),
        (content(entry([1.0] * 5), device="cuda"), content(entry([1.0] * 5)), "floor_ratio", "a baseline on cuda"),
        (content(), content(entry([1.0] * 5)), "floor_ratio", "no results"),
    ],
)
def test_what_cannot_be_judged_is_bad_input_and_no_regression(now, before, metric, words):
    with pytest.raises(InputError, match=words):
        gate(now, before, max_slowdown=0.05, metric=metric)


def test_compare_gives_second_over_first_with_an_interval_that_holds_it():
    rng = np.random.default_rng(0)
    one, two = (entry(level * rng.normal(1, 0.02, 15)) for level in (1.2, 1.5))
    (change,) = compare(content(one, entry([1.0] * 5, batch=32)), content(two))
    median, low, high = change.ratios["floor_ratio"]
    assert low < 1.25 < high
    assert median == pytest.approx(1.25, abs=0.03)
    assert change.ratios["images_per_second"][0] == pytest.approx(1 / median, rel=1e-9)
    with pytest.raises(InputError, match="no pass in common"):
        compare(content(one), content(entry([1.0] * 5, batch=64)))
    with pytest.raises(InputError, match="two models of one name"):
        compare(content(one), content({**two, "parameters": 1}))
    elsewhere = content(two)
    elsewhere["environment"] = {**elsewhere["environment"], "device": "cuda"}
    with pytest.raises(InputError, match="no figure of one says anything of the other"):
        compare(content(one), elsewhere)


def test_intervals_are_those_of_a_median():
    samples = np.random.default_rng(0).normal(10, 1, 400)
    median, low, high = interval(samples)
    assert low < median < high
    # The median's standard error is 1.25 σ / √n.
    assert high - low == pytest.approx(2 * 1.96 * 1.2533 / 20, rel=0.3)
    assert ratio(samples, samples)[0] == 1


def test_samples_without_spread_have_a_verdict():
    assert slowdown_p_value(np.full(5, 1.2), np.full(5, 1.0)) == 0
    assert slowdown_p_value(np.full(5, 1.0), np.full(5, 1.0)) == 1
