"""Samplers and pruners: drawn from (study seed, trial number), the same again, never one point for all workers."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from flowbench.config.experiments import load_experiment
from flowbench.config.schema import Experiment
from flowbench.errors import InputError
from flowbench.tuning.grid import GridExhaustedError
from flowbench.tuning.objectives import objectives_of
from flowbench.tuning.sampling import make_pruner, make_sampler, validations
from flowbench.tuning.space import suggest
from tests.studies import SPACE

MIXED = (
    "tune: {model.residual_blocks: {int: [1, 8]}, optim.lr: {float: [1.0e-4, 1.0e-1], log: true}, "
    "optim.name: {categorical: [adam, adamw]}, "
    "optim.weight_decay: {float: [0.0, 0.1], step: 0.05, when: {optim.name: adamw}}}"
)
GRID = "tune: {model.residual_blocks: {int: [1, 3]}, model.features: {categorical: [4, 8]}}"


def experiment(tmp_path: Path, *overrides: str, tune: str = MIXED) -> Experiment[Any, Any]:
    path = tmp_path / "mine.yaml"
    path.write_text(SPACE + tune)
    return load_experiment(path, overrides)


def play(one: Experiment[Any, Any], trials: int, study: optuna.Study | None = None) -> list[dict[str, Any]]:
    """Run a sequential study of a formula, each trial with a sampler of its own, as after a restart."""
    study = study or optuna.create_study()
    chosen = []
    for _ in range(trials):
        study.sampler = make_sampler(one)
        trial = study.ask()
        chosen.append(suggest(trial, one.tune))
        study.tell(trial, abs(chosen[-1]["model.residual_blocks"] - 3) + chosen[-1].get("optim.lr", 0))
    return chosen


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp"])
def test_the_same_seed_gives_the_same_suggestions_and_another_seed_others(tmp_path: Path, sampler: str) -> None:
    one = experiment(tmp_path, f"study.sampler={sampler}")
    first = play(one, 13)
    assert play(one, 13) == first
    assert play(experiment(tmp_path, f"study.sampler={sampler}", "study.seed=1"), 13) != first
    assert len({str(chosen) for chosen in first}) == 13


def test_ten_workers_that_begin_together_begin_at_ten_points(tmp_path: Path) -> None:
    one = experiment(tmp_path)
    study = optuna.create_study()
    chosen = []
    for _ in range(10):
        study.sampler = make_sampler(one)
        chosen.append(str(suggest(study.ask(), one.tune)))
    assert len(set(chosen)) == 10


def test_tpe_finds_better_points_than_chance(tmp_path: Path) -> None:
    chosen = play(experiment(tmp_path), 30)
    early = [abs(one["model.residual_blocks"] - 3) for one in chosen[:8]]
    late = [abs(one["model.residual_blocks"] - 3) for one in chosen[-8:]]
    assert sum(late) < sum(early)


def test_a_grid_gives_each_point_to_one_trial_also_when_points_are_tried_again(tmp_path: Path) -> None:
    one = experiment(tmp_path, "study.sampler=grid", tune=GRID)
    study = optuna.create_study(sampler=make_sampler(one))
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        retry = RetryHeartbeatStaleTrialCallback()
    done = []
    asked = [study.ask() for _ in range(2)]
    lost = asked[0]
    first = suggest(lost, one.tune)
    # A worker dies with its trial; its point waits to be tried again under a new number.
    study.tell(lost, state=TrialState.FAIL)
    retry(study, study.get_trials()[lost.number])
    trial = asked[1]
    while True:
        done.append(suggest(trial, one.tune))
        study.tell(trial, 0.0)
        if study.sampler.exhausted(study):
            break
        trial = study.ask()
    assert first in done
    assert len(done) == 6 == len({str(point) for point in done})
    with pytest.raises(GridExhaustedError):
        suggest(study.ask(), one.tune)


def test_pruners_are_those_of_the_study_section(tmp_path: Path) -> None:
    one = experiment(tmp_path)
    hyperband = make_pruner(one, ["bits_per_dim"])
    assert isinstance(hyperband, HyperbandPruner)
    assert hyperband._max_resource == 4
    assert isinstance(make_pruner(experiment(tmp_path, "study.pruner=median"), ["bits_per_dim"]), MedianPruner)
    assert isinstance(make_pruner(experiment(tmp_path, "study.pruner=none"), ["bits_per_dim"]), NopPruner)
    assert isinstance(make_pruner(one, ["bits_per_dim", "parameters"]), NopPruner)


def test_distributions_are_judged_by_their_likelihood_where_they_have_one() -> None:
    assert list(objectives_of(load_experiment("etth/lstm-flow"))) == ["nll"]
    assert list(objectives_of(load_experiment("etth/empirical"))) == ["mae"]
    assert list(objectives_of(load_experiment("etth/empirical", ["study.objectives=[crps]"]))) == ["crps"]
    for name in ("etth/empirical", "etth/nlinear"):
        with pytest.raises(InputError, match="unknown 'nll'"):
            objectives_of(load_experiment(name, ["study.objectives=[nll]"]))


@pytest.mark.parametrize(
    ("keys", "number"),
    [
        ("steps: 100, validate_every: 33, keep: best", 4),
        ("steps: 99, validate_every: 33, keep: best", 3),
        ("steps: 100, validate_every: 33", 3),
        ("epochs: 7, steps: null, validate_every: epoch", 7),
    ],
)
def test_the_last_validation_is_counted_where_there_is_one_more(tmp_path: Path, keys: str, number: int) -> None:
    assert validations(experiment(tmp_path, f"train={{{keys}}}")) == number


def test_objectives_are_checked(tmp_path: Path) -> None:
    assert list(objectives_of(experiment(tmp_path))) == ["bits_per_dim"]
    assert list(objectives_of(load_experiment("etth/lstm2lstm"))) == ["mae"]
    both = objectives_of(experiment(tmp_path, "study.objectives=[bits_per_dim, images_per_second]"))
    assert [one.direction for one in both.values()] == ["minimize", "maximize"]
    with pytest.raises(InputError, match="did you mean bits_per_dim"):
        objectives_of(experiment(tmp_path, "study.objectives=[bits_per_dims]"))
    with pytest.raises(InputError, match="mae"):
        objectives_of(experiment(tmp_path, "study.objectives=[mae]"))
    with pytest.raises(InputError, match="twice"):
        objectives_of(experiment(tmp_path, "study.objectives=[parameters, parameters]"))
