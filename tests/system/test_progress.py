import io

import pytest
from rich.console import Console
from rich.text import Text

from flowbench.system import progress
from flowbench.system.progress import TrainingBar, counted, numbered, telling


def screen(*, terminal: bool) -> tuple[Console, io.StringIO]:
    target = io.StringIO()
    return Console(file=target, force_terminal=terminal, width=80), target


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def work(clock: list[float], console: Console, seconds: float) -> list[int]:
    done = []
    for item in counted(range(4), "thinking", 4, console=console):
        clock[0] += seconds
        done.append(item)
    return done


def test_a_bar_appears_after_two_seconds_on_a_terminal(clock: list[float]) -> None:
    console, target = screen(terminal=True)
    assert work(clock, console, 1.5) == [0, 1, 2, 3]
    assert "thinking" in target.getvalue()


@pytest.mark.parametrize(("terminal", "seconds"), [(True, 0.4), (False, 5.0)])
def test_nothing_is_drawn_for_what_is_quick_or_where_nobody_looks(
    clock: list[float], terminal: bool, seconds: float
) -> None:
    console, target = screen(terminal=terminal)
    assert work(clock, console, seconds) == [0, 1, 2, 3]
    assert target.getvalue() == ""


def test_it_keeps_still_while_a_training_draws(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingBar, "drawing", True)
    console, target = screen(terminal=True)
    assert work(clock, console, 5.0) == [0, 1, 2, 3]
    assert target.getvalue() == ""


def test_an_error_takes_the_bar_away(clock: list[float]) -> None:
    console, _ = screen(terminal=True)
    items = counted(range(4), "thinking", 4, console=console)
    assert next(items) == 0
    clock[0] += 3
    assert next(items) == 1
    with pytest.raises(ValueError, match="inside"):
        items.throw(ValueError("inside"))
    with console.status("free again"):
        assert not TrainingBar.drawing


def last_frame(target: io.StringIO, word: str) -> str:
    return [line for line in Text.from_ansi(target.getvalue()).plain.splitlines() if word in line][-1]


def test_a_narrow_terminal_cuts_the_title_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    console, target = screen(terminal=True)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    logged = {"train/bits_per_dim": 1.94321, "train/loss": 83.2, "train/grad_norm": 12.0, "images_per_second": 1560.0}
    with numbered("run 2 of 5"), TrainingBar("real_nvp/lsun-church_outdoor", "images", shown=True) as bar:
        bar.show(0.25, logged)
    last = last_frame(target, "images/s")
    assert last.startswith("run 2 of 5 real_nvp/lsun-")
    assert " 25% 1.943 bits/dim, 1,560 images/s " in last
    assert last.split()[-1].count(":") == 1  # the time left
    assert len(last) <= 80


def test_a_bar_moves_between_logged_rows_and_says_what_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    console, target = screen(terminal=True)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    with TrainingBar("nice/digits", "images", shown=True) as bar:
        bar.advance(0.03)
        console.print("before the first row")
        bar._progress.refresh()
        assert "  3%" in last_frame(target, "nice/digits")
        assert list(counted(range(2), "evaluating digits test", 2)) == [0, 1]
    assert "evaluating digits test 100%" in last_frame(target, "nice/digits")


def test_a_bar_is_told_where_somebody_listens() -> None:
    heard: list[tuple[str, float]] = []
    with telling(lambda what, part: heard.append((what, part))), TrainingBar("nice", "images", shown=False) as bar:
        bar.note("compiling")
        for step in range(1, 1001):
            bar.advance(step / 1000)
        list(counted(range(4), "evaluating", 4))
    assert heard[:2] == [("compiling", 0.0), ("training", 0.001)]
    assert ("training", 1.0) in heard
    assert heard[-1] == ("evaluating", 1.0)
    assert len(heard) < 20
