"""Runs on their way, seen from outside: state, progress and time left, from what lies in their folders."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flowbench.config.schema import Experiment
from flowbench.runs.folder import RunFolder
from flowbench.system.progress import one_at_a_time

__all__ = ["Told", "Watch", "Watched", "look", "watch_until_done"]

QUIET_SECONDS = 120
"""A run that has logged nothing for so long is no longer called running."""
BAR_WIDTH = 12
ENDS = ("done", "failed", "skipped")
"""States that nothing follows, unless somebody goes on with the table."""


@dataclass(frozen=True)
class Watched:
    """One run at a moment."""

    row: str
    experiment: str
    seed: int
    state: str
    """done, failed, skipped, starting, running, evaluating and other words of its process, quiet or waiting."""
    progress: float
    """0 to 1, of its steps or epochs, or of what else it is doing."""
    seconds_left: float | None
    """Of training, at the speed so far; None where it is not known."""


@dataclass
class Told:
    """What a run's process says of itself, which is more, and sooner, than what lies in its folder."""

    what: str = "starting"
    """The first word of it is the state."""
    part: float = 0.0
    """0 to 1, of what it is doing."""
    began: tuple[float, float] | None = None
    """When it first told of its training, in seconds since the epoch, and the part that was done then."""

    def hear(self, what: str, part: float, now: float) -> None:
        """Take in what it says."""
        self.what, self.part = what, part
        if what == "training" and self.began is None:
            self.began = (now, part)

    def seconds_left(self, now: float) -> float | None:
        """Return how long the training still takes, at the speed so far."""
        if self.what != "training" or self.began is None or self.part <= self.began[1]:
            return None
        return (now - self.began[0]) / (self.part - self.began[1]) * (1 - self.part)


def look(row: str, experiment: Experiment[Any, Any], run: Path, now: float, told: Told | None = None) -> Watched:
    """Return what a run's folder says, and its process.

    Args:
        row: the table's row.
        experiment: the resolved experiment.
        run: its folder, which need not exist.
        now: seconds since the epoch, as the clock that metrics are logged with.
        told: by its process, where that is one of ours and at work.
    """
    folder = RunFolder(run)
    if told is not None:
        state = "running" if told.what == "training" else told.what.split()[0]
        return Watched(row, experiment.name, experiment.seed, state, told.part, told.seconds_left(now))
    if folder.finished:
        return Watched(row, experiment.name, experiment.seed, "done", 1.0, 0.0)
    rows = folder.metrics() if folder.exists else []
    if folder.failed:
        part = _part(experiment, rows[-1]) if rows else 0.0
        return Watched(row, experiment.name, experiment.seed, "failed", part, None)
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
    """Shows the runs under way on stderr while the block goes on, drawn anew every second; silent where no terminal is.

    Args:
        runs: gives what to show; an empty list shows nothing.
        drawn: whether to draw at all; `say` speaks either way.
    """

    def __init__(self, runs: Callable[[], Sequence[Watched]], *, drawn: bool = True) -> None:
        self._runs = runs
        self._console = Console(stderr=True)
        self._held = ExitStack()
        self._live = None
        if drawn and self._console.is_terminal:
            # By a thread: what this one is busy with, a page for example, does not stop the clock.
            self._live = Live(console=self._console, get_renderable=self._picture, refresh_per_second=1, transient=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._held.enter_context(one_at_a_time())
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._held.close()

    def draw(self) -> None:
        """Draw at once."""
        if self._live is not None:
            self._live.refresh()

    def say(self, line: str) -> None:
        """Write a line that stays, above what is drawn."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=not self._console.is_terminal)

    def _picture(self) -> Group | Text:
        runs = self._runs()
        if not runs:
            return Text("")
        under_way = [one for one in runs if one.state not in (*ENDS, "waiting")]
        done = sum(one.state == "done" for one in runs)
        told = Text(f"{done} of {len(runs)} done, {len(under_way)} under way")
        return Group(as_table(under_way), told) if under_way else Group(told)


def watch_until_done(runs: Callable[[], Sequence[Watched]], say: Callable[[str], None], poll: float = 2.0) -> None:
    """Show runs that other processes make until each has its end: live, or, without a terminal, a line a change."""
    seen: dict[int, str] = {}
    with Watch(runs) as watch:
        while True:
            now = runs()
            for place, one in enumerate(now):  # an experiment may stand in a row twice
                if seen.get(place) != one.state:
                    seen[place] = one.state
                    say(f"{one.row}, {one.experiment}, seed {one.seed}: {one.state}")
            watch.draw()
            if all(one.state in ENDS for one in now):
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
