"""Runs on their way, seen from outside: state, progress and time left, from what lies in their folders."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flowbench.config.schema import Experiment
from flowbench.runs.folder import RunFolder

__all__ = ["Watch", "Watched", "look", "watch_until_done"]

QUIET_SECONDS = 120
"""A run that has logged nothing for so long is no longer called running."""
BAR_WIDTH = 12


@dataclass(frozen=True)
class Watched:
    """One run at a moment."""

    row: str
    experiment: str
    seed: int
    state: str
    """done, running, evaluating, quiet or waiting."""
    progress: float
    """0 to 1, of its steps or epochs."""
    seconds_left: float | None
    """Of training, at the speed so far; None where it is not known."""


def look(row: str, experiment: Experiment[Any, Any], run: Path, now: float) -> Watched:
    """Return what a run's folder says.

    Args:
        row: the table's row.
        experiment: the resolved experiment.
        run: its folder, which need not exist.
        now: seconds since the epoch, as the clock that metrics are logged with.
    """
    folder = RunFolder(run)
    if folder.finished:
        return Watched(row, experiment.name, experiment.seed, "done", 1.0, 0.0)
    rows = folder.metrics() if folder.exists else []
    if not rows:
        state = "running" if folder.exists else "waiting"
        return Watched(row, experiment.name, experiment.seed, state, 0.0, None)
    first, last = (_part(experiment, one) for one in (rows[0], rows[-1]))
    elapsed, quiet = rows[-1]["time"] - rows[0]["time"], now - rows[-1]["time"]
    left = elapsed / (last - first) * (1 - last) if last > first else None
    state = "quiet" if quiet > QUIET_SECONDS else "evaluating" if last >= 1 else "running"
    seconds = None if left is None else max(left - quiet, 0.0)
    return Watched(row, experiment.name, experiment.seed, state, last, seconds)


def _part(experiment: Experiment[Any, Any], row: dict[str, Any]) -> float:
    config = experiment.train
    total, done = (config.steps, row["step"]) if config.steps is not None else (config.epochs, row["epoch"])
    return min(done / total, 1.0) if total else 1.0


class Watch:
    """Shows the runs under way on stderr while the block goes on: call it to draw anew; silent where no terminal is.

    Args:
        runs: gives what to show; an empty list shows nothing.
    """

    def __init__(self, runs: Callable[[], Sequence[Watched]]) -> None:
        self._runs = runs
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Callable[[], None]:
        if self._live is not None:
            self._live.start()
        return self._draw

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _draw(self) -> None:
        runs = self._runs() if self._live is not None else []
        if runs and self._live is not None:
            under_way = [one for one in runs if one.state not in ("done", "waiting")]
            done = sum(one.state == "done" for one in runs)
            told = Text(f"{done} of {len(runs)} done, {len(under_way)} under way")
            self._live.update(Group(as_table(under_way), told) if under_way else told, refresh=True)


def watch_until_done(runs: Callable[[], Sequence[Watched]], say: Callable[[str], None], poll: float = 2.0) -> None:
    """Show runs that other processes make, until all are done: live, or a line for each change where no terminal is."""
    seen: dict[tuple[str, str, int], str] = {}
    with Watch(runs) as show:
        while True:
            now = runs()
            for one in now:
                key = (one.row, one.experiment, one.seed)
                if seen.get(key) != one.state:
                    seen[key] = one.state
                    say(f"{one.row}, {one.experiment}, seed {one.seed}: {one.state}")
            show()
            if all(one.state == "done" for one in now):
                return
            time.sleep(poll)


def as_table(runs: Sequence[Watched]) -> Table:
    """Return the runs as a table, one a line; in a narrow terminal names are cut, never the figures."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, expand=True)
    table.add_column("row", no_wrap=True, ratio=1)
    table.add_column("experiment", no_wrap=True, ratio=2)
    for name, width in (("seed", 4), ("state", 10), ("progress", BAR_WIDTH + 5), ("time left", 9)):
        table.add_column(name, no_wrap=True, width=width)
    for one in runs:
        filled = round(BAR_WIDTH * one.progress)
        bar = f"{'━' * filled}{'╌' * (BAR_WIDTH - filled)} {one.progress:4.0%}"
        table.add_row(one.row, one.experiment, str(one.seed), one.state, bar, _duration(one.seconds_left))
    return table


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
