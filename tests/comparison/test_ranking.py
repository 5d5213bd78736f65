"""Ranking: seeds are one entry, and a difference within the noise is a tie."""

from typing import Any

import pytest

from flowbench.comparison.entries import Entry, Field, differing
from flowbench.comparison.importance import importances
from flowbench.comparison.plots import PLOTS, draw
from flowbench.comparison.ranking import pareto, rank


def entry(value: float | None, seed: int = 0, stderr: float | None = 0.01, **more: Any) -> Entry:
    settings = {"model.features": more.pop("features", 8), "optim.lr": more.pop("lr", 1e-3), "optim.name": "adam"}
    defaults: dict[str, Any] = {
        "name": f"run {value}", "path": None, "state": "pruned" if value is None else "complete", "reason": "",
        "parameters": 100, "flops": 10**6, "speed": 50.0, "steps": 10, "curve": [(5, 3.0), (10, 2.5)],
    }  # fmt: skip
    return Entry(settings=settings, seed=seed, value=value, stderr=stderr, **{**defaults, **more})


def test_seeds_of_a_config_are_one_group_with_mean_and_standard_deviation() -> None:
    ranking = rank([entry(2.1, 0), entry(2.0, 0, features=16), entry(2.3, 1), entry(None, 2), entry(2.2, 2)])
    assert [group.value for group in ranking.groups] == pytest.approx([2.0, 2.2])
    repeated = ranking.groups[1]
    assert repeated.deviation == pytest.approx(0.1)
    assert [one.seed for one in repeated.entries] == [0, 1, 2]
    assert "over seeds" in ranking.by


def test_a_difference_within_the_noise_over_seeds_is_a_tie() -> None:
    # Pooled sd 0.1, 4 degrees of freedom; of a difference of means 0.1 √(2/3) = 0.082, times t = 2.78: 0.227.
    first = [entry(value, seed) for seed, value in enumerate((2.0, 2.1, 2.2))]
    near = [entry(value + 0.2, seed, features=16) for seed, value in enumerate((2.0, 2.1, 2.2))]
    far = [entry(value + 0.25, seed, features=16) for seed, value in enumerate((2.0, 2.1, 2.2))]
    assert [group.tie for group in rank(first + near).groups] == [True, True]
    assert [group.tie for group in rank(first + far).groups] == [True, False]


def test_two_seeds_alone_leave_one_degree_of_freedom() -> None:
    # sd 0.1414, 1 degree of freedom: of the difference of a mean of two to a single run 0.173, times t = 12.7: 2.2.
    repeated = [entry(2.0, 0), entry(2.2, 1)]
    assert [group.tie for group in rank([*repeated, entry(4.2, features=16)]).groups] == [True, True]
    assert [group.tie for group in rank([*repeated, entry(4.4, features=16)]).groups] == [True, False]


def test_one_repeated_config_tells_the_noise_of_all() -> None:
    ranking = rank([entry(2.0, 0), entry(2.2, 1), entry(2.4, 0, features=16), entry(9.0, 0, features=32)])
    assert [group.tie for group in ranking.groups] == [True, True, False]


def test_without_repeats_the_noise_is_that_over_images_or_unknown() -> None:
    ranking = rank([entry(2.0), entry(2.02, features=16), entry(2.2, features=32)])
    assert [group.tie for group in ranking.groups] == [True, True, False]
    assert "no config was repeated" in ranking.by
    unknown = rank([entry(2.0, stderr=None), entry(2.5, stderr=None, features=16)])
    assert [group.tie for group in unknown.groups] == [True, None]
    assert "repeat configs over seeds" in unknown.by


def test_what_is_recommended_is_the_smallest_of_those_tied_with_the_best() -> None:
    entries = [
        entry(2.0, parameters=900), entry(2.01, features=16, parameters=300), entry(2.5, features=32, parameters=10)
    ]  # fmt: skip
    assert rank(entries).recommended.value == 2.01
    nothing_to_learn = entry(2.005, features=64, parameters=0)
    assert rank([*entries, nothing_to_learn]).recommended.value == 2.005
    unknown = entry(2.005, features=64, parameters=None)
    assert rank([*entries, unknown]).recommended.value == 2.01


def test_only_settings_that_differ_are_shown() -> None:
    assert differing([entry(2.0), entry(2.1, features=16)]) == ["model.features"]
    assert differing([entry(2.0), entry(2.1)]) == []


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (2.0, 4.0), (3.0, 3.0), (4.0, 1.0)]
    assert pareto(points) == [True, True, False, False, True]
    assert pareto([(1.0, 1.0), (1.0, 1.0)]) == [True, True]


def test_importance_finds_the_setting_that_matters() -> None:
    entries = [
        entry(2 + features / 8 + lr, features=features, lr=lr)
        for features in (4, 8, 12, 16, 24) for lr in (1e-3, 1e-2, 3e-2)
    ]  # fmt: skip
    found = importances(entries, ["model.features", "optim.lr"])
    assert found["model.features"] > 0.9
    assert sum(found.values()) == pytest.approx(1)
    assert importances(entries[:4], ["model.features"]) == {}
    assert importances([entry(2.0, features=4 * place) for place in range(1, 8)], ["model.features"]) == {}


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_draws_many_runs_and_survives_few_and_odd_ones(name: str) -> None:
    many = [
        entry(2 + features / 8 + lr, features=features, lr=lr, parameters=features**2, speed=1e3 / features)
        for features in (4, 8, 16) for lr in (1e-4, 3e-3, 1e-2)
    ]  # fmt: skip
    many += [entry(None, features=99, curve=[(5, 4.0)])]
    field = Field("Study", "bits_per_dim", "holdout", "images", many)
    figure = draw(name, field, rank(many))
    assert figure is not None
    assert all(
        axes.get_xlabel() or axes.get_ylabel() or axes.get_xticks().size for axes in figure.axes if axes.get_visible()
    )
    bare = [entry(2.0, parameters=None, flops=None, speed=None, curve=[])]
    for few in (bare, [*bare, entry(2.0, features=16, curve=[(1, 2.0)])]):
        draw(name, Field("Runs", "mae", "test", "windows", few), rank(few))
