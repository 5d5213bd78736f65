"""The bar of a training on stderr: images/s, the smoothed loss, the gradient's norm, time left."""

from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["TrainingBar"]


class TrainingBar:
    """A progress bar over a training's steps (or its time budget); silent where stderr is no terminal.

    Args:
        title: what is trained.
        unit: what is counted per second, for example `images`.
        shown: whether to draw at all.
    """

    def __init__(self, title: str, unit: str, *, shown: bool) -> None:
        console = Console(stderr=True)
        self._unit = unit
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
            transient=True,
        )
        self._task = self._progress.add_task(title, total=1.0, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: float, row: Mapping[str, float | int | None]) -> None:
        """Draw the part that is `done` (0 to 1) and the figures of a logged row."""
        shown = [f"{value:.4g} {key.removeprefix('train/').replace('_', ' ')}" for key, value in _figures(row)]
        speed = row.get(f"{self._unit}_per_second")
        if speed is not None:
            shown.insert(0, f"{speed:,.0f} {self._unit}/s")
        self._progress.update(self._task, completed=done, figures=", ".join(shown))


def _figures(row: Mapping[str, float | int | None]) -> list[tuple[str, float]]:
    return [(key, value) for key, value in row.items() if key.startswith("train/") and value is not None]
