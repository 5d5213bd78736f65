from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flowbench.config.experiments import load_experiment
from flowbench.config.schema import Experiment
from flowbench.reproduction.watching import Watched, as_table, look, watch_until_done
from flowbench.runs.folder import RunFolder


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Experiment[Any, Any], Path]:
    experiment = load_experiment("real_nvp/digits", ["train.steps=100"])
    run = RunFolder(tmp_path / "run")
    with run.lock():
        run.begin(experiment, {})
    for step in (10, 20):
        run.append_metrics({"step": step, "epoch": 0, "time": 1000.0 + step})
    return experiment, run.path


def test_progress_and_time_left_follow_from_the_logged_steps(begun: tuple[Experiment[Any, Any], Path]) -> None:
    one = look("digits", *begun, now=1022.0)
    assert (one.state, one.progress) == ("running", 0.2)
    assert one.seconds_left == pytest.approx(80 - 2)  # a step a second, two seconds ago
    assert look("digits", *begun, now=2000.0).state == "quiet"
    assert look("digits", begun[0], begun[1].parent / "other", now=0).state == "waiting"


def test_evaluating_and_done_are_told_apart(begun: tuple[Experiment[Any, Any], Path]) -> None:
    run = RunFolder(begun[1])
    run.append_metrics({"step": 100, "epoch": 4, "time": 1100.0})
    assert look("digits", *begun, now=1101.0).state == "evaluating"
    run.write_result({})
    done = look("digits", *begun, now=1101.0)
    assert (done.state, done.progress, done.seconds_left) == ("done", 1.0, 0.0)


def test_a_watcher_says_each_change_and_ends_when_all_are_done() -> None:
    def one(state: str) -> list[Watched]:
        return [Watched("digits", "x", 0, state, 0.5, 3725.0)]

    states = iter([one("waiting"), one("running"), one("running"), one("done")])
    said: list[str] = []
    watch_until_done(lambda: next(states), said.append, poll=0.0)
    assert said == [f"digits, x, seed 0: {state}" for state in ("waiting", "running", "done")]
    console = Console(width=100, record=True)
    console.print(as_table(one("running")))
    text = console.export_text()
    assert "50%" in text
    assert "1:02:05" in text
