"""Bars on stderr, where it is a terminal, or in a notebook: a training's, and one for whatever else takes a while."""

import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from typing import Any, ClassVar, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

__all__ = ["PATIENCE", "TrainingBar", "counted", "is_quiet", "numbered", "one_at_a_time", "quietly", "telling", "warn"]

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds after which people want to know how long it takes."""
FRAMES_PER_SECOND = 4
FIGURES_WIDTH = 49
"""Columns beside a bar's title: a short bar, the percentage, a figure, the speed, the time left."""


_quiet = ContextVar("quiet", default=False)
_told: ContextVar[Callable[[str, float], None] | None] = ContextVar("told", default=None)
_numbered = ContextVar("numbered", default="")


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


@contextmanager
def telling(tell: Callable[[str, float], None]) -> Iterator[None]:
    """Inside the block, bars are not drawn but told, some times a second: what is done, and the part (0 to 1)."""
    token = _told.set(tell)
    try:
        yield
    finally:
        _told.reset(token)


@contextmanager
def numbered(words: str) -> Iterator[None]:
    """Inside the block, the bars of trainings begin with these words, for example `run 2 of 5`."""
    token = _numbered.set(words)
    try:
        yield
    finally:
        _numbered.reset(token)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Inside the block, where something else is drawn, `counted` keeps still: a terminal shows one thing at a time."""
    before, TrainingBar.drawing = TrainingBar.drawing, True
    try:
        yield
    finally:
        TrainingBar.drawing = before


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
    _current: ClassVar["TrainingBar | None"] = None

    def __init__(self, title: str, unit: str, *, shown: bool) -> None:
        console = Console(stderr=True)
        self._unit, self._title = unit, f"{_numbered.get()} {title}".strip()
        self._done, self._words, self._moved = 0.0, "", 0.0
        self._notebook = shown and console.is_jupyter
        self._cell: Any = None
        # The title gives way first, then the bar: a narrow terminal cuts neither figures nor time.
        width = max(12, min(len(self._title), console.width - FIGURES_WIDTH))
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", width=width)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            expand=True,
            disable=not (shown and console.is_terminal),
            transient=True,
        )
        self._task = self._progress.add_task(self._title, total=1.0, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        if self._notebook:
            from IPython.display import display

            self._cell = display(self, display_id=True)
        TrainingBar.drawing = not self._progress.disable
        TrainingBar._current = self
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        TrainingBar.drawing = False
        TrainingBar._current = None

    def note(self, words: str) -> None:
        """Say what is being done while there are no figures."""
        self._words = words
        self._tell(words, self._done)
        self._progress.update(self._task, figures=words)
        self._draw()

    def count(self, title: str, part: float) -> None:
        """Say beside the bar what is being done, and the part of it (0 to 1) that is done."""
        if self._due(part):
            self._words = f"{title} {part:.0%}"
            self._tell(title, part)
            self._progress.update(self._task, figures=self._words)
            self._draw()

    def advance(self, done: float) -> None:
        """Draw the part that is `done` (0 to 1): called after every step."""
        if not self._due(done):
            return
        self._done = done
        self._tell("training", done)
        self._progress.update(self._task, completed=done)
        self._draw()

    def show(self, done: float, row: Mapping[str, float | int | None]) -> None:
        """Draw the part that is `done` and, of a logged row, the figure that people know a model by, and the speed."""
        shown = [f"{value:.4g} {name}" for value, name in _figures(row)]
        speed = row.get(f"{self._unit}_per_second")
        if speed is not None:
            shown.append(f"{speed:,.0f} {self._unit}/s")
        self._done, self._words = done, ", ".join(shown)
        self._progress.update(self._task, completed=done, figures=self._words)
        self._draw()

    def _repr_html_(self) -> str:
        """Return the bar as a notebook shows it: no widgets, which not every notebook has."""
        return (
            f'<progress value="{self._done:.4f}" max="1"></progress> {self._done:.0%} {escape(self._title)} '
            f"<small>{escape(self._words)}</small>"
        )

    def _due(self, part: float) -> bool:
        """Say whether to draw again: some times a second, and at the end."""
        now = time.monotonic()
        due = now - self._moved >= 1 / FRAMES_PER_SECOND or part >= 1
        self._moved = now if due else self._moved
        return due

    def _tell(self, what: str, done: float) -> None:
        tell = _told.get()
        if tell is not None:
            tell(what, done)

    def _draw(self) -> None:
        if self._cell is not None:
            self._cell.update(self)


def counted(items: Iterable[T], title: str, total: int, *, console: Console | None = None) -> Generator[T]:
    """Yield the items; once they have taken longer than two seconds, show how many are done and the time left.

    Args:
        items: whatever is worked on, one after the other.
        title: what is done with them.
        total: how many there are.
        console: where to draw [default: stderr]; nothing is drawn unless it is a terminal. A training's bar says it
            instead where there is one.
    """
    screen, training = console or Console(stderr=True), TrainingBar._current
    if training is not None:
        for place, item in enumerate(items):
            yield item
            training.count(title, (place + 1) / max(total, 1))
        return
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


def _figures(row: Mapping[str, float | int | None]) -> list[tuple[float, str]]:
    """Return the one figure of a logged row that people know a model by, with its name."""
    for key, name in _KNOWN_BY.items():
        value = row.get(key)
        if value is not None:
            return [(value, name)]
    return []


_KNOWN_BY = {"train/bits_per_dim": "bits/dim", "train/mae": "MAE", "train/loss": "loss"}
