import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from flowbench.config.experiments import load_experiment
from flowbench.config.schema import Experiment
from flowbench.reproduction import watching
from flowbench.reproduction.watching import Watch, Watched, as_table, look, watch_until_done
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


def test_two_lines_of_one_name_are_watched_apart() -> None:
    lines = [Watched("ETTh2 96", "etth/nlinear", 0, state, 0.0, None) for state in ("done", "waiting")]
    ends = [Watched("ETTh2 96", "etth/nlinear", 0, "done", 1.0, None)] * 2
    states, said = iter([lines, lines, ends]), list[str]()
    watch_until_done(lambda: next(states), said.append, poll=0.0)
    assert [line.rpartition(" ")[2] for line in said] == ["done", "waiting", "done"]


def test_a_watch_ends_where_runs_have_failed_or_were_left_out(begun: tuple[Experiment[Any, Any], Path]) -> None:
    run = RunFolder(begun[1])
    with pytest.raises(ZeroDivisionError), run.noting_failure():
        raise ZeroDivisionError
    failed = look("digits", *begun, now=1022.0)
    assert (failed.state, failed.progress) == ("failed", 0.2)
    left_out = Watched("ETTh1 96", "y", 0, "skipped", 0.0, None)
    said: list[str] = []
    watch_until_done(lambda: [failed, left_out], said.append, poll=0.0)
    assert [line.rpartition(" ")[2] for line in said] == ["failed", "skipped"]


@pytest.mark.parametrize("width", [80, 60])
def test_every_run_under_way_has_its_bar_in_a_narrow_terminal(width: int) -> None:
    names = ["real_nvp/lsun-church_outdoor", "etth/lstm2lstm-faithful", "real_nvp/digits"]
    runs = [
        Watched("LSUN church outdoor", name, 2, "evaluating", 0.25 * (place + 1), 3725.0)
        for place, name in enumerate(names)
    ]
    console = Console(width=width, record=True, force_terminal=True, file=io.StringIO())
    console.print(as_table(runs))
    lines = console.export_text().splitlines()
    assert len(lines) == 1 + len(runs)
    assert max(map(len, lines)) <= width
    for line, part in zip(lines[1:], ("━━━╌╌╌╌╌╌╌╌╌  25%", "━━━━━━╌╌╌╌╌╌  50%", "━━━━━━━━━╌╌╌  75%"), strict=True):
        assert f"2     evaluating  {part}  1:02:05" in line


def test_only_runs_under_way_are_drawn_and_the_others_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(watching, "Console", lambda **_: Console(file=screen, width=80, force_terminal=True))
    states = {"a": "done", "b": "running", "c": "evaluating", "d": "waiting"}
    with Watch(lambda: [Watched("digits", name, 0, state, 0.5, 5.0) for name, state in states.items()]) as watch:
        watch.draw()
    lines = Text.from_ansi(screen.getvalue()).plain.splitlines()
    assert sorted({line.split()[1] for line in lines if line.startswith("digits")}) == ["b", "c"]
    assert "1 of 4 done, 2 under way" in lines
