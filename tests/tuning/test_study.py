"""Whole studies: they go on, they stop, they keep what failed, and they never look at the report split."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from flowbench.config.experiments import load_experiment
from flowbench.data import images as images_module
from flowbench.errors import InputError, WorkFailedError
from flowbench.system.interruption import Interrupted
from flowbench.tuning.joining import study_folder
from tests.studies import SPACE, Formula, Lab


def test_a_study_gives_runs_the_best_and_the_command_that_trains_it_in_full(lab: Lab, formula: Formula) -> None:
    outcome = lab.tune(6, "study.steps=40", "study.pruner=none")
    assert (outcome.complete, outcome.pruned, outcome.failed) == (6, 0, 0)
    study = lab.study()
    assert [record["number"] for record in lab.records()] == list(range(6))
    assert {record["state"] for record in lab.records()} == {"complete"}
    values = [trial.value for trial in study.trials]
    assert outcome.best[0]["values"] == [min(values)]
    assert outcome.experiment_file is not None
    best = load_experiment(outcome.experiment_file)
    assert best.model.residual_blocks == outcome.best[0]["chosen"]["model.residual_blocks"]
    assert best.data.holdout == 0
    assert best.train.steps == 40
    assert load_experiment(study_folder(study) / "trial-0000" / "config.yaml").data.holdout == 287
    assert outcome.command == f"flowbench train {outcome.experiment_file}"


def test_what_the_caller_says_of_a_trials_length_comes_before_the_files_budget(lab: Lab, formula: Formula) -> None:
    lab.tune(1, "study.steps=40", "study.validations=4", "train.steps=30", "train.validate_every=7", study="short")
    lab.tune(1, "study.steps=40", "study.validations=4", "train.validate_every=7", study="half")
    found = {
        name: load_experiment(study_folder(lab.study(name)) / "trial-0000" / "config.yaml").train
        for name in ("short", "half")
    }
    assert [(one.steps, one.validate_every) for one in found.values()] == [(30, 7), (40, 7)]


def test_a_study_goes_on_where_it_was_and_repeats_nothing(lab: Lab, formula: Formula) -> None:
    lab.tune(5, "study.sampler=random", "study.pruner=none")
    assert len(formula.seen) == 5
    assert lab.tune(5, "study.sampler=random", "study.pruner=none").complete == 5
    assert len(formula.seen) == 5
    lab.tune(9, "study.sampler=random", "study.pruner=none")
    whole = formula.seen.copy()
    formula.seen.clear()
    lab.tune(9, "study.sampler=random", "study.pruner=none", study="b")
    assert whole == formula.seen


def test_another_config_may_not_join(lab: Lab, formula: Formula) -> None:
    lab.tune(1)
    for change in ("optim.lr=0.5", "study.objectives=[bits_per_dim, parameters]", "study.seed=4"):
        with pytest.raises(InputError, match="give another --study"):
            lab.tune(2, change)
    Path("searched.yaml").write_text(SPACE + "tune: {model.residual_blocks: {int: [1, 5]}}")
    with pytest.raises(InputError, match="give another --study"):
        lab.tune(2)
    assert len(formula.seen) == 1


def test_a_study_that_was_deleted_begins_in_a_new_folder(lab: Lab, formula: Formula) -> None:
    first = lab.tune(1).folder
    optuna.delete_study(study_name="a", storage=lab.storage)
    assert lab.tune(1).folder != first
    assert len(formula.seen) == 2


def test_a_grid_ends_by_itself(lab: Lab, formula: Formula) -> None:
    outcome = lab.tune(100, "study.sampler=grid", "study.pruner=none")
    assert outcome.complete == 12 == len(set(formula.seen))
    assert lab.tune(100, "study.sampler=grid", "study.pruner=none").complete == 12
    assert len(formula.seen) == 12
    assert outcome.best[0]["chosen"] == {"model.residual_blocks": 3, "model.features": 16}


def test_pruned_trials_keep_their_reason_and_count(lab: Lab, formula: Formula) -> None:
    outcome = lab.tune(12, "study.sampler=grid")
    assert len(set(formula.seen)) == 12
    assert outcome.pruned > 0
    assert outcome.complete + outcome.pruned == 12
    assert outcome.best[0]["chosen"]["model.residual_blocks"] == 3
    pruned = [record for record in lab.records() if record["state"] == "pruned"]
    assert len(pruned) == outcome.pruned
    assert all("bits_per_dim" in record["reason"] and "at step" in record["reason"] for record in pruned)


def test_a_trial_that_is_trained_to_its_end_is_kept(
    lab: Lab, formula: Formula, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_last(trial: optuna.Trial) -> bool:
        return 4 in trial.study._storage.get_trial(trial._trial_id).intermediate_values

    monkeypatch.setattr(optuna.Trial, "should_prune", at_last)
    outcome = lab.tune(3)
    assert (outcome.complete, outcome.pruned) == (3, 0)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WorkFailedError("diverged at step 7"), "diverged at step 7"),
        (InputError("data.batch_size: 5000 is more than the 1437 images"), "batch_size"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"), "out of memory"),
    ],
)
def test_a_trial_fails_alone(lab: Lab, formula: Formula, error: Exception, reason: str) -> None:
    formula.at[2] = error
    outcome = lab.tune(4, "study.pruner=none")
    assert (outcome.complete, outcome.failed) == (4, 1)
    (failed,) = [record for record in lab.records() if record["state"] == "failed"]
    assert reason in failed["reason"]
    assert failed["number"] == 1


def test_a_bug_is_not_taken_for_a_failed_trial(lab: Lab, formula: Formula) -> None:
    formula.at[2] = RuntimeError("size of tensor a must match")
    with pytest.raises(RuntimeError, match="must match"):
        lab.tune(4)
    assert lab.records()[1]["state"] == "failed"


def test_as_many_failures_end_a_study(lab: Lab, formula: Formula) -> None:
    formula.at.update({number: WorkFailedError("diverged") for number in (1, 2, 3)})
    with pytest.raises(WorkFailedError, match="3 trials failed, the last: diverged"):
        lab.tune(3)
    assert len(formula.seen) == 3


def test_torchrun_around_a_study_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="without torchrun: --nproc-per-node"):
        lab.tune(1)


def test_missing_data_leave_no_study_behind(lab: Lab, data_folder: Path) -> None:
    with pytest.raises(InputError, match="prepare"):
        lab.tune(3, "data.name=cifar10", storage="sqlite:///optuna.db")
    assert not Path("optuna.db").exists()
    assert not Path("runs").exists()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
@pytest.mark.parametrize("way", ["while training", "after a step", "hard"])
def test_a_stopped_study_goes_on_as_if_it_had_not_been_stopped(
    lab: Lab, formula: Formula, sampler: str, way: str
) -> None:
    settings = (f"study.sampler={sampler}", "study.pruner=none")
    lab.tune(11, *settings, study="whole")
    formula.seen.clear()
    formula.at[6] = {
        "while training": Interrupted("stopped at step 20 and saved", signal.SIGTERM),
        "after a step": interrupt,
        "hard": KeyboardInterrupt(),
    }[way]
    with pytest.raises(Interrupted, match="run the same command again") as caught:
        lab.tune(11, *settings, study="stopped")
    assert caught.value.exit_code == (143 if way == "while training" else 130)
    assert [record["state"] for record in lab.records("stopped")].count("complete") == 6 - (way != "after a step")
    lab.tune(11, *settings, study="stopped")
    whole, again = (
        [(one.number, one.params, one.values, one.state) for one in lab.study(name).trials]
        for name in ("whole", "stopped")
    )
    assert again == whole
    assert formula.resumed == (0 if way == "after a step" else 1)
    assert not list(Path().rglob(".trial.json*"))


def test_a_study_says_first_what_it_is_about_to_do(lab: Lab, formula: Formula) -> None:
    lab.tune(2, "train.steps=40", progress=True)
    searched = "searched: model.residual_blocks, model.features"
    assert lab.lines[0] == f"study a: 2 trials to make of 40 steps each; {searched}"
    assert lab.lines[1].startswith("trial 0: complete, bits_per_dim ")
    lab.lines.clear()
    lab.tune(3, "train.steps=40", progress=True)
    assert lab.lines[0] == f"study a: goes on, 2 of 3 trials are done, 1 trial to make of 40 steps; {searched}"


def test_several_objectives_give_a_front_and_say_that_nothing_is_pruned(lab: Lab, formula: Formula) -> None:
    outcome = lab.tune(12, "study.objectives=[bits_per_dim, parameters]", "study.sampler=grid", progress=True)
    assert outcome.pruned == 0
    assert "Optuna cannot prune" in lab.lines[0]
    assert outcome.objectives == ("bits_per_dim", "parameters")
    values = [tuple(one["values"]) for one in outcome.best]
    everything = [tuple(trial.values) for trial in lab.study().trials]
    dominated = [one for one in everything if any(a <= one[0] and b <= one[1] and (a, b) != one for a, b in everything)]
    assert sorted(set(values)) == sorted(set(everything) - set(dominated))
    assert len(values) > 2


def test_an_objective_that_no_validation_measures_says_that_nothing_is_pruned(lab: Lab, formula: Formula) -> None:
    lab.tune(1, "study.objectives=[parameters]", progress=True)
    assert lab.lines[0] == (
        "parameters is known at a training's end alone: nothing is pruned by it, every trial runs to its end"
    )


@pytest.mark.slow
def test_trials_train_for_real_and_never_open_the_report_split(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = images_module.open_split

    def recorded(name: str, split: Any) -> Any:
        opened.append(split)
        return original(name, split)

    monkeypatch.setattr(images_module, "open_split", recorded)
    outcome = lab.tune(3, "study.steps=4", "study.validations=2", "train.log_every=2", "model.features=4")
    assert outcome.complete + outcome.pruned == 3
    assert set(opened) == {"train"}
    study = lab.study()
    config = load_experiment(study_folder(study) / "trial-0000" / "config.yaml")
    assert (config.train.steps, config.train.validate_every) == (4, 2)
    complete = next(trial for trial in study.trials if trial.values)
    result = json.loads((study_folder(study) / complete.user_attrs["run"] / "result.json").read_text())
    assert list(result["metrics"]) == ["holdout"]
    assert result["metrics"]["holdout"]["bits_per_dim"]["value"] == complete.value
    assert result["metrics"]["holdout"]["bits_per_dim"]["n"] == 287
