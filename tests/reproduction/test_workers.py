"""Runs side by side: each once, no more at a time than asked for, whatever becomes of a process."""

import json
import os
import shlex
import signal
import threading
from collections import deque
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from flowbench.config.experiments import dump_experiment, load_experiment
from flowbench.errors import InputError, WorkFailedError
from flowbench.reproduction import workers as module
from flowbench.reproduction.agenda import Pair
from flowbench.reproduction.reproduce import failure, reproduce
from flowbench.reproduction.workers import ATTEMPTS, Workers
from flowbench.runs.folder import RunFolder
from flowbench.system.helpers import Helper
from flowbench.system.interruption import Interrupted
from flowbench.tracking import Mirror
from tests.faults.commands import FLOWBENCH, finish, kill, start, wait_until, words
from tests.reproduction.fake_worker import CLAIMED_ONCE, DIES, DIES_ONCE, FAILED, FINE, LONG, SKIPPED
from tests.reproduction.test_sharing import TABLE


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers be fake ones, but in slow tests."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(
            module, "Helper", lambda _, environment: Helper("tests.reproduction.fake_worker", environment)
        )
        monkeypatch.setattr(module, "needed_memory", lambda _: 0)
        monkeypatch.setattr(module, "POLL_SECONDS", 0.1)


def pairs(out: Path, *seeds: int) -> deque[Pair]:
    return deque(
        (load_experiment("independent/digits", [f"seed={seed}"]), out / "runs" / f"{place}-{seed}")
        for place, seed in enumerate(seeds)
    )


def most_at_a_time(out: Path) -> int:
    spans = [tuple(map(float, path.read_text().split())) for path in out.glob("runs/*/times")]
    return max(sum(begun <= moment < ended for begun, ended in spans) for moment, _ in spans)


def test_each_run_comes_to_its_end_and_what_went_wrong_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = psutil.Process().children()
    queue = pairs(tmp_path, FINE, SKIPPED, FAILED, DIES_ONCE, CLAIMED_ONCE, DIES)
    ended = {run.name: outcome for run, outcome in Workers(tmp_path, 2, Mirror()).run(queue)}
    assert len(ended) == 6
    assert [ended[f"{place}-{seed}"] for place, seed in ((0, FINE), (3, DIES_ONCE), (4, CLAIMED_ONCE))] == [None] * 3
    skipped, failed, died = ended[f"1-{SKIPPED}"], ended[f"2-{FAILED}"], ended[f"5-{DIES}"]
    assert (type(skipped), str(skipped)) == (InputError, "no data")
    assert (type(failed), str(failed)) == (WorkFailedError, "diverged")
    assert isinstance(died, WorkFailedError)
    assert f"killed {ATTEMPTS} times" in str(died)
    assert capsys.readouterr().err.count("another one goes on with the run") == 1 + ATTEMPTS - 1
    assert most_at_a_time(tmp_path) <= 2
    assert {path.read_text() for path in tmp_path.glob("runs/*/threads")} == {"1"}
    assert psutil.Process().children() == before


def test_a_queue_may_grow_meanwhile(tmp_path: Path) -> None:
    queue = pairs(tmp_path, FINE, FINE)
    later = pairs(tmp_path / "later", FINE)
    ended = []
    for run, _ in Workers(tmp_path, 2, Mirror()).run(queue):
        ended.append(run)
        if len(ended) == 2:
            queue.extend(later)
    assert len(ended) == 3


def test_without_memory_for_two_one_works_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def full(promised: dict[int, int], new: int = 0) -> bool:
        asked.append(len(promised))
        return False

    monkeypatch.setattr(module, "has_room", full)
    assert len(list(Workers(tmp_path, 3, Mirror()).run(pairs(tmp_path, FINE, FINE, FINE)))) == 3
    assert most_at_a_time(tmp_path) == 1
    assert asked


def test_what_fits_is_made_before_what_has_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = pairs(tmp_path, LONG, FINE, SKIPPED)
    sizes = {LONG: 1, FINE: 10**18, SKIPPED: 1}
    monkeypatch.setattr(module, "config_id", lambda experiment: str(experiment.seed))
    monkeypatch.setattr(module, "needed_memory", lambda experiment: sizes[experiment.seed])
    monkeypatch.setattr(module, "PROCESS_BYTES", 0)
    ended = Workers(tmp_path, 2, Mirror()).run(queue)
    assert next(ended)[0].name == f"2-{SKIPPED}"
    assert [experiment.seed for experiment, _ in queue] == [FINE]
    ended.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_all_save_and_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    def stop_both() -> None:
        if wait_until(lambda: len(list(tmp_path.glob("runs/*/at work"))) == 2):
            os.kill(os.getpid(), number)

    before = psutil.Process().children()
    threading.Thread(target=stop_both).start()
    with pytest.raises(Interrupted, match="stopped and saved") as stopped:
        list(Workers(tmp_path, 2, Mirror()).run(pairs(tmp_path, LONG, LONG, FINE)))
    assert stopped.value.exit_code == 128 + number
    assert [path.read_text() for path in tmp_path.glob("runs/*/saved")] == ["SIGTERM"] * 2
    assert psutil.Process().children() == before
    assert not (tmp_path / "runs" / f"2-{FINE}").exists()


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a small table of trainings whose last bits depend on the number of threads."""
    content = load_experiment(
        "real_nvp/digits",
        ["model.features=16", "train.steps=120", "train.log_every=2", "train.checkpoint_every=5", "evaluate.draws=1"],
    )
    (tmp_path / "small.yaml").write_text(dump_experiment(content))
    path = tmp_path / "mine.yaml"
    path.write_text(TABLE.replace("real_nvp/digits", str(tmp_path / "small.yaml")))
    monkeypatch.chdir(tmp_path)
    return str(path)


def figures(results: dict[str, Any]) -> list[tuple[str, list[float]]]:
    assert failure(results) is None
    return [(row["experiment"], row["values"]) for row in results["rows"]]


def weights(out: Path) -> dict[str, Any]:
    return {path.parent.name: torch.load(path)["model"] for path in out.glob("runs/*/checkpoint.pt")}


@pytest.mark.slow
def test_what_is_trained_is_the_same_side_by_side_on_any_threads_and_with_kills(table: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = reproduce(table, out=tmp_path / "alone", seeds=[0, 1])
    finally:
        torch.set_num_threads(threads)
    command = [*FLOWBENCH, "reproduce", table, "--seeds", "0,1", "--jobs", "2", "--out", "together"]
    process = start(command, cwd=tmp_path, OMP_NUM_THREADS="2")
    checkpoints = (tmp_path / "together" / "runs").glob
    assert wait_until(lambda: any(checkpoints("real_nvp-*/checkpoint.pt")), process)
    helpers = [one for one in psutil.Process(process.pid).children() if "flowbench.reproduction.worker" in words(one)]
    assert len(helpers) == 2
    helpers[0].kill()
    assert wait_until(lambda: bool({*psutil.Process(process.pid).children()} - {*helpers}), process)
    kill(process, signal.SIGINT)
    _, errors = finish(process, code=130)
    assert "another one goes on with the run" in errors
    assert f"stopped and saved: to go on: flowbench {shlex.join(command[len(FLOWBENCH) :])}\n" in errors
    assert not any(one.is_running() for one in helpers)
    assert json.loads((tmp_path / "together" / "results.json").read_text())["table"] == "mine"
    assert not all(RunFolder(path).finished for path in checkpoints("*"))
    finish(start(command, cwd=tmp_path, OMP_NUM_THREADS="2"))
    together = json.loads((tmp_path / "together" / "results.json").read_text())
    assert figures(together) == figures(alone)
    one, other = weights(tmp_path / "alone"), weights(tmp_path / "together")
    assert one.keys() == other.keys()
    for run, state in one.items():
        assert all(torch.equal(value, other[run][key]) for key, value in state.items()), run
        assert RunFolder(tmp_path / "together" / "runs" / run).environment["threads"] == 1
