"""Storages: what is wrong with one is one line; many workers on each lose nothing and do nothing twice."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import flowbench
from flowbench.errors import InputError, WorkFailedError
from flowbench.tuning.joining import find_study, study_folder
from flowbench.tuning.storage import explained, open_storage
from tests.servers import port, postgres
from tests.studies import SPACE

__all__ = ["postgres"]

WORKER = Path(__file__).with_name("workers.py")
GRID = "tune: {model.residual_blocks: {int: [1, 3]}, model.features: {categorical: [2, 3, 4, 5]}}"
TINY = ["study.sampler=grid", "study.pruner=none", "train.validate_every=10", "train.log_every=10", "evaluate.draws=1"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("optuna.db", "sqlite:///optuna.db"),
        ("sqlite:///nowhere/optuna.db", "no folder nowhere"),
        ("oracle7://x", "cannot be opened"),
        ("grpc://", "grpc://HOST:PORT"),
        ("postgresql://me:secret@127.0.0.1:1/study", "cannot be opened"),
    ],
)
def test_what_is_wrong_with_a_storage_is_one_line(tmp_path: Path, monkeypatch: Any, url: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        open_storage(url)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("no database, but long enough to be taken for one" * 40)
    with pytest.raises(InputError, match=r"optuna\.db.*not a database"):
        open_storage(f"sqlite:///{tmp_path}/optuna.db")
    assert [path.name for path in tmp_path.iterdir()] == ["optuna.db"]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "UPDATE alembic_version SET version_num = 'v2.6.0.a'",
            "older Optuna.*: optuna storage upgrade --storage sqlite",
        ),
        ("UPDATE alembic_version SET version_num = 'v99.0.0.a'", "newer Optuna.*: pip install --upgrade optuna"),
        ("DROP TABLE studies; UPDATE alembic_version SET version_num = '1bd49d398cd23'", "another program's tables"),
    ],
)
@pytest.mark.parametrize("make", [True, False])
def test_a_storage_of_another_version_is_left_as_it_is(tmp_path: Path, statement: str, words: str, make: bool) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    open_storage(url)
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.executescript(statement)
        before = list(connection.iterdump())
    with pytest.raises(InputError, match=words):
        open_storage(url, make=make)
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        assert list(connection.iterdump()) == before


def test_a_storage_that_fails_names_the_remedy() -> None:
    error = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = Exception("(sqlite3.OperationalError) database is locked")
    with pytest.raises(WorkFailedError, match=r"database is locked.*--storage postgresql://"), explained("sqlite:///a"):
        raise error


@pytest.fixture
def proxy() -> Iterator[str]:
    """A gRPC proxy before a storage in memory."""
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
    from optuna.storages._grpc.server import make_server

    number = port()
    server = make_server(optuna.storages.InMemoryStorage(), "127.0.0.1", number)
    Thread(target=server.start, daemon=True).start()
    grpc.channel_ready_future(grpc.insecure_channel(f"127.0.0.1:{number}")).result(timeout=30)
    yield f"grpc://127.0.0.1:{number}"
    server.stop(grace=None)


def test_behind_the_proxy_too_a_dead_workers_trial_is_tried_again(proxy: str) -> None:
    storage = open_storage(proxy, heartbeat=60, grace=0)
    study = optuna.create_study(study_name="a", storage=storage)
    dead, alive = study.ask(), study.ask()
    point = dead.suggest_float("x", 0, 1)
    storage.record_heartbeat(dead._trial_id)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        optuna.storages.fail_stale_trials(study)
    states = [trial.state for trial in study.trials]
    # A trial without a sign of life is that of a worker without heartbeats: nobody may take it for dead.
    assert states == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]
    again = study.ask()
    assert (again.number, again.suggest_float("x", 0, 1)) == (2, point)
    study.tell(alive, 1.0)
    storage.record_heartbeat(alive._trial_id)


def taken_up_again(storage: optuna.storages.BaseStorage) -> None:
    """A trial whose last sign of life is old is given to a worker while another one looks for the dead."""
    study = optuna.create_study(study_name="again", storage=storage)
    trial = study.ask()
    storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
    storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
    time.sleep(2.5)
    assert study.ask().number == trial.number
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        optuna.storages.fail_stale_trials(study)
    assert [one.state for one in study.trials] == [TrialState.RUNNING]


def test_a_trial_that_goes_on_lives_from_its_first_moment(tmp_path: Path) -> None:
    taken_up_again(open_storage(f"sqlite:///{tmp_path / 'optuna.db'}", heartbeat=60, grace=2))


def test_behind_the_proxy_too_it_lives_from_its_first_moment(proxy: str) -> None:
    taken_up_again(open_storage(proxy, heartbeat=60, grace=2))


class Workers:
    """Worker processes in one working folder."""

    def __init__(self, folder: Path, url: str, steps: int) -> None:
        self.folder, self.url, self.steps = folder, url, steps
        (folder / "searched.yaml").write_text(SPACE + GRID)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, count: int, trials: int) -> None:
        root = str(Path(flowbench.__file__).parent.parent)
        environment = os.environ | {"PYTHONPATH": root, "FLOWBENCH_TRACKING": "off", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(WORKER), "searched.yaml", str(trials), self.url, "1", "8"]
        command += [*TINY, f"train.steps={self.steps}"]
        for _ in range(count):
            self.processes.append(
                subprocess.Popen(
                    command, cwd=self.folder, env=environment, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip

    def wait(self) -> list[str]:
        """Return what each wrote; all but those killed by SIGKILL must have ended well."""
        outputs = [process.communicate(timeout=240)[0] for process in self.processes]
        for process, output in zip(self.processes, outputs, strict=True):
            assert process.returncode in (0, -signal.SIGKILL), output
        return outputs

    def check(self, monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
        """Every point of the grid is complete exactly once, and the best is the best of the runs' own results."""
        monkeypatch.chdir(self.folder)
        study = find_study("shared", open_storage(self.url))
        complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
        points = [(trial.params["model.residual_blocks"], trial.params["model.features"]) for trial in complete]
        assert sorted(points) == [(blocks, features) for blocks in (1, 2, 3) for features in (2, 3, 4, 5)]
        results = {
            trial.number: json.loads((study_folder(study) / trial.user_attrs["run"] / "result.json").read_text())
            for trial in complete
        }
        values = {number: one["metrics"]["holdout"]["bits_per_dim"]["value"] for number, one in results.items()}
        assert values == {trial.number: trial.value for trial in complete}
        assert study.best_value == min(values.values())
        return study


@pytest.mark.slow
def test_two_workers_share_one_sqlite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(tmp_path, f"sqlite:///{tmp_path}/optuna.db", steps=2)
    workers.start(2, trials=12)
    outputs = workers.wait()
    workers.check(monkeypatch)
    assert not any("locked" in output for output in outputs)
    assert all("complete" in output for output in outputs)


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.postgres
def test_four_workers_on_postgresql_survive_the_death_of_one(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(tmp_path, postgres, steps=30)
    workers.start(1, trials=12)
    wait_for(lambda: any(tmp_path.rglob("metrics.jsonl")))
    victim = workers.processes[0]
    workers.start(3, trials=12)
    victim.kill()
    workers.wait()
    study = workers.check(monkeypatch)
    lost = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert len(lost) == 1
    again = [trial for trial in study.trials if trial.system_attrs.get("failed_trial") == lost[0].number]
    assert [trial.state for trial in again] == [TrialState.COMPLETE]
    assert again[0].params == lost[0].params
    assert again[0].user_attrs["run"] == lost[0].user_attrs["run"]
    assert len(study.trials) == 13


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, 1.0, 2.5])
def test_ctrl_c_at_any_moment_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: float
) -> None:
    workers = Workers(tmp_path, f"sqlite:///{tmp_path}/optuna.db", steps=4)
    workers.start(1, trials=12)
    process = workers.processes.pop()
    wait_for(lambda: any(tmp_path.rglob("trial.json")))
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    monkeypatch.chdir(tmp_path)
    before = find_study("shared", open_storage(workers.url)).trials
    assert not [path for path in tmp_path.rglob(".*") if path.name not in (".lock", ".mlflow.lock")]
    workers.start(1, trials=12)
    workers.wait()
    study = workers.check(monkeypatch)
    assert [trial.number for trial in study.trials] == list(range(12))
    for trial in before:
        if trial.state == TrialState.COMPLETE:
            assert study.trials[trial.number] == trial
