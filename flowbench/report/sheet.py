"""A table once, for every place that shows it: the HTML page, CSV, Markdown and LaTeX are made of the same sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Cell", "Column", "Sheet", "number_cell"]


@dataclass(frozen=True)
class Column:
    """A column: its name, whether it holds numbers (right-aligned, sorted as such), a small second line."""

    name: str
    numeric: bool = False
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """What stands in one place.

    Args:
        text: what people read.
        value: the full-precision value, for sorting, for hovering and for CSV; None: the text is all there is.
        note: a small second line.
        href: where the text links to: `#id` on the page, or a path relative to it.
        badges: names from `flowbench.report.badges`.
        strong: ours, the best one: stands out.
    """

    text: str
    value: float | int | str | None = None
    note: str = ""
    href: str | None = None
    badges: tuple[str, ...] = ()
    strong: bool = False


@dataclass(frozen=True)
class Sheet:
    """A whole table.

    Args:
        name: its name in file names and ids: letters, digits, `-` and `_`.
        caption: one or two sentences: what is shown, which direction is better, what the errors are.
        columns: at least one; the first one names the rows.
        rows: as many cells each as there are columns.
        records: what the CSV holds, one mapping a line, where that is more than the page shows.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    records: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"sheet {self.name}: a row of {len(row)} cells under {len(self.columns)} columns")


def number_cell(value: float | int | None, form: str = ",.3f", **more: object) -> Cell:
    """Return a numeric cell in this format; a dash for None."""
    if value is None:
        return Cell("–", **more)  # type: ignore[arg-type]
    return Cell(format(value, form).replace("-", "−"), value, **more)  # type: ignore[arg-type]
