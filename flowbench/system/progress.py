"""Bars on stderr, where it is a terminal, or in a notebook: a training's, and one for whatever else takes a while."""

import sys
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from typing import Any, ClassVar, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

__all__ = ["PATIENCE", "TrainingBar", "counted", "is_quiet", "quietly", "warn"]

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds after which people want to know how long it takes."""


_quiet = ContextVar("quiet", default=False)


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Inside the block, nothing is drawn or said on stderr (unless `quiet` is False)."""
    token = _quiet.set(quiet)
    try:
        yield
    finally:
        _quiet.reset(token)


def is_quiet() -> bool:
    """Say whether this is inside `quietly`."""
    return _quiet.get()


def warn(message: str) -> None:
    """Say something on stderr, in one line; stdout is for the result. Inside `quietly` it is Python's warning."""
    if is_quiet():
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return
    print(f"flowbench: warning: {message}", file=sys.stderr)


class TrainingBar:
    """A progress bar over a training's steps (or its time budget); silent where stderr is no terminal or notebook.

    Args:
        title: what is trained.
        unit: what is counted per second, for example `images`.
        shown: whether to draw at all.
    """

    drawing: ClassVar[bool] = False
    """A terminal shows one bar at a time: others keep still while a training draws its own."""

    def __init__(self, title: str, unit: str, *, shown: bool) -> None:
        console = Console(stderr=True)
        self._unit, self._title = unit, title
        self._done, self._words = 0.0, ""
        self._notebook = shown and console.is_jupyter
        self._cell: Any = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            # They take the width that is left: a narrow terminal cuts the figures, never the percentage or the times.
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True, ratio=1)),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
            disable=not (shown and console.is_terminal),
            transient=True,
        )
        self._task = self._progress.add_task(title, total=1.0, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        if self._notebook:
            from IPython.display import display

            self._cell = display(self, display_id=True)
        TrainingBar.drawing = not self._progress.disable
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        TrainingBar.drawing = False

    def note(self, words: str) -> None:
        """Say what is being done while there are no figures yet."""
        self._progress.update(self._task, figures=words)
        self._draw(words)

    def show(self, done: float, row: Mapping[str, float | int | None]) -> None:
        """Draw the part that is `done` (0 to 1) and the figures of a logged row."""
        shown = [f"{value:.4g} {key.removeprefix('train/').replace('_', ' ')}" for key, value in _figures(row)]
        speed = row.get(f"{self._unit}_per_second")
        if speed is not None:
            shown.insert(0, f"{speed:,.0f} {self._unit}/s")
        self._progress.update(self._task, completed=done, figures=", ".join(shown))
        self._done = done
        self._draw(", ".join(shown))

    def _repr_html_(self) -> str:
        """Return the bar as a notebook shows it: no widgets, which not every notebook has."""
        return (
            f'<progress value="{self._done:.4f}" max="1"></progress> {self._done:.0%} {escape(self._title)} '
            f"<small>{escape(self._words)}</small>"
        )

    def _draw(self, words: str) -> None:
        self._words = words
        if self._cell is not None:
            self._cell.update(self)


def counted(items: Iterable[T], title: str, total: int, *, console: Console | None = None) -> Generator[T]:
    """Yield the items; once they have taken longer than two seconds, show how many are done and the time left.

    Args:
        items: whatever is worked on, one after the other.
        title: what is done with them.
        total: how many there are.
        console: where to draw [default: stderr]; nothing is drawn unless it is a terminal.
    """
    screen = console or Console(stderr=True)
    if not screen.is_terminal or TrainingBar.drawing or is_quiet():
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn())
    bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=screen, transient=True)
    task, started = bar.add_task(title, total=total), time.monotonic()
    try:
        for item in items:
            yield item
            bar.advance(task)
            if not bar.live.is_started and time.monotonic() - started > PATIENCE:
                bar.start()
    finally:
        bar.stop()


def _figures(row: Mapping[str, float | int | None]) -> list[tuple[str, float]]:
    return [(key, value) for key, value in row.items() if key.startswith("train/") and value is not None]
