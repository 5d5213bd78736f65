"""Workers as jobs: submitit's local executor runs the real command; what a cluster lacks is said at once."""

import os
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from optuna.trial import TrialState

import flowbench
from flowbench.__main__ import main
from flowbench.errors import InputError
from flowbench.tuning.joining import find_study
from flowbench.tuning.storage import open_storage
from flowbench.tuning.submit import submit_workers
from tests.studies import Lab

TINY = [
    "study.pruner=none",
    "train.steps=2",
    "train.validate_every=2",
    "model.features=2",
    "study.sampler=grid",
    "evaluate.draws=1",
]


def test_what_a_cluster_lacks_is_said_before_anything_is_submitted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    with pytest.raises(InputError, match=r"cannot share sqlite:///optuna\.db.*postgresql://"):
        submit_workers(["tune", "a"], "slurm", 2, storage="sqlite:///optuna.db")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="no sbatch here"):
        submit_workers(["tune", "a"], "slurm", 2, storage="grpc://localhost:13000")
    assert not Path("runs").exists()


def test_a_password_reaches_the_jobs_by_their_environment_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    submitit = pytest.importorskip("submitit", reason="submitit is not installed")
    url, given = "postgresql://me:S3CRET@host/studies", []

    def submit(_: object, work: Any) -> None:
        given.append((cloudpickle.dumps(work), os.environ.get("OPTUNA_STORAGE")))

    monkeypatch.setattr(submitit.AutoExecutor, "submit", submit)
    monkeypatch.setenv("OPTUNA_STORAGE", "mine")
    submit_workers(["tune", "a"], "local", 1, storage=url)
    submit_workers(["tune", "a"], "local", 1, storage="postgresql://me@host/studies")
    assert os.environ["OPTUNA_STORAGE"] == "mine"
    (secret, found), (plain, untouched) = given
    assert (found, untouched) == (url, "mine")
    assert b"S3CRET" not in secret
    assert b"--storage" not in secret
    assert b"postgresql://me@host/studies" in plain
    # A cluster that starts jobs without it must not begin a study elsewhere.
    monkeypatch.delenv("OPTUNA_STORAGE")
    with pytest.raises(InputError, match="export=ALL"):
        cloudpickle.loads(secret)()


@pytest.mark.slow
def test_local_jobs_share_a_study(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    root = str(Path(flowbench.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    command = ["tune", "searched.yaml", *TINY, "--trials", "4", "--study", "a", "--jobs", "1"]
    jobs = submit_workers(command, "local", 2, storage="sqlite:///optuna.db")
    outputs = [job.result() for job in jobs]
    study = find_study("a", open_storage("sqlite:///optuna.db"))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    assert sorted(trial.params["model.residual_blocks"] for trial in study.trials) == [1, 2, 3, 4]
    assert all("train it in full" in output for output in outputs)


def test_workers_on_a_cluster_mirror_their_trials_as_they_were_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr("flowbench.cli.tune._submit", lambda command, *_: commands.append(command))
    monkeypatch.setattr(
        sys, "argv", ["flowbench", "tune", "real_nvp/digits", "--submit", "slurm", "--logger", "tensorboard"]
    )
    with pytest.raises(SystemExit):
        main()
    place = commands[0].index("--logger")
    assert commands[0][place + 1] == "tensorboard"
