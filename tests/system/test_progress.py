import io

import pytest
from rich.console import Console
from rich.text import Text

from flowbench.system import progress
from flowbench.system.progress import TrainingBar, counted


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


def test_a_narrow_terminal_cuts_the_figures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    console, target = screen(terminal=True)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    figures = {f"train/figure_{number}": 1.0 for number in range(9)}
    with TrainingBar("real_nvp/digits", "images", shown=True) as bar:
        bar.show(0.25, {**figures, "images_per_second": 560.0})
    last = [line for line in Text.from_ansi(target.getvalue()).plain.splitlines() if "images/s" in line][-1]
    assert last.startswith("real_nvp/digits ")
    assert " 25% 560 images/s" in last
    assert last.split()[-1].count(":") == 2  # the time left
    assert len(last) <= 80
