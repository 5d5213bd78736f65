"""Jobs of a cluster, rehearsed by submitit's local executor: the figures of one process, also when one is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("submitit")

from flowbench.config.experiments import dump_experiment, load_experiment
from flowbench.reproduction.agenda import run_path
from flowbench.reproduction.reproduce import failure, reproduce
from flowbench.reproduction.submission import Jobs, RunJob
from flowbench.runs.folder import RunFolder
from tests.faults.commands import words
from tests.reproduction.test_sharing import TABLE

CHANGES = ["train.log_every=2", "train.checkpoint_every=5", "evaluate.draws=1"]


def figures(results: dict[str, Any]) -> list[tuple[str, float]]:
    return [(row["experiment"], row["values"]) for row in results["rows"]]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = tmp_path / "small.yaml"
    content = load_experiment("real_nvp/digits", ["model.features=4", "train.steps=40", *CHANGES])
    small.write_text(dump_experiment(content))
    path = tmp_path / "mine.yaml"
    path.write_text(TABLE.replace("real_nvp/digits", str(small)))
    return str(path)


@pytest.mark.slow
def test_two_workers_give_the_same_figures_as_one_process_also_when_one_is_killed(table: str, tmp_path: Path) -> None:
    alone = reproduce(table, out=tmp_path / "alone", seeds=[0, 1])
    assert failure(alone) is None
    killed: list[int] = []

    def kill_once() -> None:
        """Kill the job whose run has just saved its first checkpoint, and its training with it."""
        if killed:
            return
        for checkpoint in (tmp_path / "jobs-out" / "runs").glob("*/checkpoint.pt"):
            for process in psutil.Process().children(recursive=True):
                if str(checkpoint.parent) in words(process) and not RunFolder(checkpoint.parent).finished:
                    job = process.parent()
                    assert job is not None
                    os.kill(job.pid, signal.SIGKILL)
                    process.send_signal(signal.SIGKILL)
                    killed.append(job.pid)
                    return

    class Killing(Jobs):
        def run(self, pairs: Any, show: Any = None) -> Any:
            return super().run(pairs, kill_once)

    jobs = Killing("local", tmp_path / "jobs", 2)
    together = reproduce(table, out=tmp_path / "jobs-out", seeds=[0, 1], cluster=jobs)
    assert killed
    assert failure(together) is None
    assert figures(together) == figures(alone)


@pytest.mark.slow
def test_an_error_of_a_job_is_the_rows(table: str, tmp_path: Path) -> None:
    content = TABLE.replace("independent/digits, ", "").replace("real_nvp/digits", "real_nvp/celeba")
    Path(table).write_text(content.replace("split: test", "split: validation"))
    environment = {**os.environ, "FLOWBENCH_DATA": str(tmp_path / "nothing")}
    command = [sys.executable, "-m", "flowbench", "reproduce", table, "--submit", "local", "--json", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["status"] == "skipped"
    assert "flowbench data prepare celeba" in row["reason"]
    assert not run_path(tmp_path / "out", load_experiment("real_nvp/celeba")).exists()


def test_a_job_mirrors_its_run_as_the_table_was_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    class Ended:
        returncode = 0

        def __init__(self, command: list[str], **_: Any) -> None:
            commands.append(command)

        def communicate(self) -> tuple[str, str]:
            return "", ""

    monkeypatch.setattr("flowbench.reproduction.submission.subprocess.Popen", Ended)
    assert RunJob("", str(tmp_path / "runs" / "one"), "tensorboard")() == (0, "ended with code 0")
    assert commands[0][-2:] == ["--logger", "tensorboard"]
