"""Trials that several processes train through torchrun: the same choices, and each failure alone."""

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.exceptions import TrialPruned

from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.runs.folder import RunFolder
from flowbench.system.interruption import StopRequest
from flowbench.tracking import Mirror
from flowbench.tuning.together import train_together
from tests.faults.commands import FLOWBENCH, Process, finish, kill, start, wait_until, words
from tests.studies import Formula, Lab

QUICK = ["train.steps=30", "train.validate_every=6", "model.features=2", "model.residual_blocks=1", "evaluate.draws=1"]
STUDY = ["study.sampler=random", "study.pruner=none", "study.seed=3"]
RATES = "tune: {optim.lr: {float: [1.0e-4, 1.0e-3], log: true}}"


def test_a_number_of_processes_that_no_trial_can_use_is_refused(lab: Lab, formula: Formula) -> None:
    with pytest.raises(InputError, match=r"--nproc-per-node 3: data\.batch_size=64 does not divide"):
        lab.tune(1, processes=3)
    assert formula.seen == []


@pytest.mark.slow
def test_a_study_that_is_stopped_in_a_trial_ends_as_with_one_process(lab: Lab) -> None:
    finish(tune(1, "alone", 1))
    worker = tune(1, "together", 2)
    assert wait_until(lambda: validated("together"), worker)
    processes = ranks(worker)
    kill(worker, signal.SIGINT)
    finish(worker, 128 + signal.SIGINT)
    assert not any(process.is_running() for process in processes)
    assert [one["state"] for one in records("together").values()] == ["interrupted"]
    finish(tune(1, "together", 2))
    alone, together = records("alone"), records("together")
    assert [(one["chosen"], one["state"]) for one in alone.values()] == [
        (one["chosen"], one["state"]) for one in together.values()
    ]
    for name, one in alone.items():
        assert together[name]["values"] == pytest.approx(one["values"], abs=1e-3)
    trial = next(Path("runs/studies").glob("together-*/trial-0000"))
    assert RunFolder(trial).environment["processes"] == 2
    assert "torch.distributed" in (trial / "torchrun.log").read_text()


@pytest.mark.slow
def test_all_processes_end_where_the_trial_is_pruned(lab: Lab) -> None:
    run = RunFolder(Path("run"))

    def watch(step: int, figures: Mapping[str, float]) -> None:
        if step == 6:
            raise TrialPruned(f"bits_per_dim {figures['bits_per_dim']:.1f} at step 6")

    experiment = load_experiment("searched.yaml", [*QUICK, "data.holdout=64"])
    with Mirror() as mirror, StopRequest() as stop, pytest.raises(TrialPruned, match="at step 6"):
        train_together(experiment, run, 2, time_budget=None, watch=watch, mirror=mirror, stop=stop)
    assert run.step == 6
    assert not run.finished


@pytest.mark.slow
def test_a_killed_process_fails_its_trial_alone(lab: Lab) -> None:
    worker = tune(2, "a", 2)
    assert wait_until(lambda: validated("a"), worker)
    ranks(worker)[-1].kill()
    _, told = finish(worker)
    assert "trial 0: failed: " in told
    assert [one["state"] for one in records("a").values()] == ["failed", "complete", "complete"]


@pytest.mark.slow
def test_no_process_outlives_a_killed_worker(lab: Lab) -> None:
    worker = tune(1, "a", 2, "train.steps=100000")
    assert wait_until(lambda: validated("a"), worker)
    processes = ranks(worker)
    kill(worker)
    gone, alive = psutil.wait_procs(processes, timeout=60)
    assert len(gone) == 2
    assert alive == []
    assert list(Path("runs/studies").glob("a-*/trial-0000/checkpoint.pt"))


def tune(trials: int, study: str, processes: int, *overrides: str) -> Process:
    Path("searched.yaml").write_text(Path("searched.yaml").read_text().split("tune:")[0] + RATES)
    command = [*FLOWBENCH, "tune", "searched.yaml", *QUICK, *STUDY, *overrides, "--trials", str(trials)]
    return start([*command, "--study", study, "--nproc-per-node", str(processes)], cwd=Path.cwd())


def records(study: str) -> dict[str, dict[str, Any]]:
    paths = sorted(Path("runs/studies").glob(f"{study}-*/trial-*/trial.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def validated(study: str) -> bool:
    paths = Path("runs/studies").glob(f"{study}-*/trial-0000/metrics.jsonl")
    return any("validation/" in path.read_text() for path in paths)


def ranks(worker: Process) -> list[psutil.Process]:
    """Return the processes that train, by rank."""
    below = psutil.Process(worker.pid).children(recursive=True)
    found = [one for one in below if "flowbench.tuning.ranks" in words(one) and "RANK" in one.environ()]
    assert len(found) == 2
    return sorted(found, key=lambda one: int(one.environ()["RANK"]))
