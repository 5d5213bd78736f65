"""Runs on their way, seen from outside: state, progress and time left, from what lies in their folders."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from flowbench.config.schema import Experiment
from flowbench.runs.folder import RunFolder

__all__ = ["Watch", "Watched", "look", "watch_until_done"]

QUIET_SECONDS = 120
"""A run that has logged nothing for so long is no longer called running."""


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
    """Shows runs live on stderr while the block goes on: call it to draw them anew; silent where there is no terminal.

    Args:
        runs: gives what to show; an empty list shows nothing.
    """

    def __init__(self, runs: Callable[[], Sequence[Watched]]) -> None:
        self._runs = runs
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

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
            self._live.update(as_table(runs), refresh=True)


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
    """Return the runs as a table, one a line."""
    table = Table("row", "experiment", "seed", "state", "progress", "time left")
    for one in runs:
        filled = round(20 * one.progress)
        bar = f"{'━' * filled}{'╌' * (20 - filled)} {one.progress:4.0%}"
        table.add_row(one.row, one.experiment, str(one.seed), one.state, bar, _duration(one.seconds_left))
    return table


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
