"""Trials side by side: workers that leave, die or are stopped, and what a trial trains whatever their number."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from flowbench.errors import InputError
from flowbench.system.helpers import Helper
from flowbench.system.interruption import StopRequest
from flowbench.tracking import Mirror
from flowbench.tuning import workers as module
from flowbench.tuning.workers import DEATHS, work_side_by_side
from tests.faults.commands import FLOWBENCH, finish, start
from tests.studies import Formula, Lab

QUICK = ["study.pruner=none", "study.sampler=random", "train.steps=10", "train.validate_every=5", "evaluate.draws=1"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Helper]:
    """Let workers be helpers that do what the request says, and return those that were started."""
    team: list[Helper] = []

    def begin(_: str, environment: dict[str, str]) -> Helper:
        assert environment["OMP_NUM_THREADS"] == "1"
        team.append(Helper("tests.system.echo_helper", environment))
        return team[-1]

    monkeypatch.setattr(module, "Helper", begin)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    return team


def work(number: int, stop: StopRequest | None = None, **request: Any) -> None:
    work_side_by_side(
        number,
        request,
        memory=0,
        mirror=Mirror(),
        stop=stop or StopRequest(),
        show=lambda line: None,
        advance=lambda parts: None,
    )


def test_the_work_is_done_when_all_have_left(started: list[Helper]) -> None:
    work(2, do="leave")
    assert [helper.status for helper in started] == [0, 0]


def test_what_the_workers_say_is_shown_and_what_they_have_trained_counts(
    started: list[Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "has_room", lambda *_: True)
    lines: list[str] = []
    seen: list[list[float]] = []
    work_side_by_side(
        2,
        {"do": "tell", "seconds": 0.2},
        memory=0,
        mirror=Mirror(),
        stop=StopRequest(),
        show=lines.append,
        advance=lambda parts: seen.append(sorted(parts)),
    )
    assert lines == ["trial 0: complete"] * 2
    assert [0.5] in seen or [0.5, 0.5] in seen
    assert seen[-1] == []


def test_who_is_killed_is_replaced_but_not_for_ever(started: list[Helper]) -> None:
    work(2, do="die")
    assert [helper.status for helper in started] == [-signal.SIGKILL] * (2 + DEATHS)


def test_without_memory_one_works_at_a_time(started: list[Helper], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_room", lambda *_: False)
    work(2, do="leave")
    assert len(started) == 1


def test_a_stop_lets_the_trials_save(started: list[Helper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopRequest()

    def at_work(answer: dict[str, str], _: Mirror) -> bool:
        assert answer == {"state": "at work"}
        stop.signal = signal.SIGTERM
        return False

    monkeypatch.setattr(module, "pass_on", at_work)
    work(1, stop, do="work", saved=str(tmp_path / "saved"))
    assert (tmp_path / "saved").read_text() == "SIGTERM"
    assert started[0].status == 143


def test_jobs_that_are_not_needed_are_not_started(lab: Lab, formula: Formula, started: list[Helper]) -> None:
    lab.tune(3, "study.pruner=none")
    lab.tune(4, "study.pruner=none", jobs=8)  # one trial is missing: this process makes it
    assert started == []
    assert len(formula.seen) == 4


def test_processes_cannot_share_what_lives_in_one(lab: Lab, formula: Formula) -> None:
    with pytest.raises(InputError, match="give its URL"):
        lab.tune(4, jobs=2)
    assert formula.seen == []


def test_a_trial_in_this_process_has_one_thread_too(lab: Lab, formula: Formula) -> None:
    before, seen = torch.get_num_threads(), []
    formula.at[1] = lambda: seen.append(torch.get_num_threads())
    torch.set_num_threads(2)
    try:
        lab.tune(1)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_a_trials_training_does_not_depend_on_how_many_run_at_a_time(lab: Lab) -> None:
    def values(study: str, jobs: str) -> dict[int, tuple[Any, Any]]:
        command = [*FLOWBENCH, "tune", "searched.yaml", *QUICK, "--trials", "3", "--study", study, "--jobs", jobs]
        finish(start(command, cwd=Path.cwd()))
        records = [json.loads(path.read_text()) for path in Path("runs/studies").glob(f"{study}-*/trial-*/trial.json")]
        return {one["number"]: (one["chosen"], one["values"]) for one in records}

    alone, together = values("alone", "1"), values("together", "2")
    assert sorted(alone) == [0, 1, 2]
    assert {number: together[number] for number in alone} == alone
