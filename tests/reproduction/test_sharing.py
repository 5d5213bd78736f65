"""Several processes on one table: each run once, a dead one's run taken over."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flowbench.config.experiments import load_experiment
from flowbench.reproduction import in_turn
from flowbench.reproduction.agenda import run_path
from flowbench.reproduction.reproduce import reproduce
from flowbench.reproduction.sharing import claim
from flowbench.runs.folder import RunFolder
from tests.faked_runs import FakeTrainer
from tests.faults.commands import wait_until

FLOW, BASELINE = "real_nvp/digits", "independent/digits"
TABLE = """\
table: mine
title: Mine
description: A table.
rows:
  - row: digits
    dataset: digits
    metric: bits_per_dim
    split: test
    experiments: [independent/digits, real_nvp/digits]
"""


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(TABLE)
    return str(path)


def test_a_claim_is_one_processs_at_a_time(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    with claim(tmp_path, run) as first, claim(tmp_path, run) as second:
        assert (first, second) == (True, False)
    with claim(tmp_path, run) as again:
        assert again
    assert not run.exists()


def test_a_killed_processs_claim_is_free_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from flowbench.reproduction.sharing import claim\n"
        "with claim(pathlib.Path(sys.argv[1]), pathlib.Path('one')) as mine: print(mine, flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with claim(tmp_path, Path("one")) as mine:
        assert not mine
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with claim(tmp_path, Path("one")) as mine:
        assert mine


def test_a_run_claimed_elsewhere_is_left_and_taken_over_when_the_claim_is_free(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    elsewhere = claim(out, run_path(out, load_experiment(BASELINE)))
    assert elsewhere.__enter__()
    calls: list[float] = []

    def dies(seconds: float) -> None:
        calls.append(seconds)
        elsewhere.__exit__(None, None, None)

    monkeypatch.setattr(in_turn.time, "sleep", dies)
    trainer = FakeTrainer()
    results = reproduce(table, out=out, trainer=trainer)
    assert trainer.calls == [(FLOW, 0), (BASELINE, 0)]
    assert calls == [1.0]
    assert [row["status"] for row in results["rows"]] == ["done", "done"]


def test_processes_at_the_same_time_make_each_run_once_and_give_the_same_table(table: str, tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=60)

    class Slow(FakeTrainer):
        def __call__(self, experiment: Any, path: Path) -> Mapping[str, Any]:
            if not self.calls:
                meeting.wait()  # both have claimed something before either finishes
            return super().__call__(experiment, path)

    trainers, results = [Slow(), Slow()], {}

    def work(number: int) -> None:
        results[number] = reproduce(table, out=tmp_path / "out", seeds=[0, 1, 2], trainer=trainers[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = [*trainers[0].calls, *trainers[1].calls]
    assert sorted(calls) == sorted((name, seed) for name in (FLOW, BASELINE) for seed in range(3))
    assert trainers[0].calls
    assert trainers[1].calls
    assert results[0] == results[1]
    assert all(row["status"] == "done" for row in results[0]["rows"])


def test_two_calls_with_different_rows_leave_each_others_figures(tmp_path: Path) -> None:
    path, out = tmp_path / "two.yaml", tmp_path / "out"
    row = "  - {{row: {0}, dataset: digits, metric: bits_per_dim, split: test, experiments: [{1}]}}\n"
    rows = row.format("first", BASELINE) + row.format("second", FLOW)
    path.write_text(f"table: two\ntitle: Two\ndescription: Two rows.\nrows:\n{rows}")

    class Meanwhile(FakeTrainer):
        def __call__(self, experiment: Any, path_: Path) -> Mapping[str, Any]:
            reproduce(str(path), only=["second"], out=out, trainer=FakeTrainer({(FLOW, 0): 1.9}))
            shutil.rmtree(run_path(out, load_experiment(FLOW)))  # what is kept without its folders
            return super().__call__(experiment, path_)

    results = reproduce(str(path), only=["first"], out=out, trainer=Meanwhile({(BASELINE, 0): 2.4}))
    assert [row["value"] for row in results["rows"]] == [2.4, 1.9]
    assert json.loads((out / "results.json").read_text()) == results


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_is_trained_without_a_claim_is_waited_for(table: str, tmp_path: Path, jobs: int) -> None:
    out, short = tmp_path / "out", ["train.steps=1", "evaluate.limit=16"]
    runs = [run_path(out, load_experiment(name, short)) for name in (BASELINE, FLOW)]
    held = threading.Event()

    def hold() -> None:
        with RunFolder(runs[1]).lock():
            held.set()
            wait_until(lambda: RunFolder(runs[0]).finished)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    results = reproduce(table, out=out, overrides=short, jobs=jobs)
    holder.join()
    assert [row["status"] for row in results["rows"]] == ["done", "done"]
