"""A part of a page: what one stored result shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowbench.report.plot import Plot
from flowbench.report.sheet import Sheet

__all__ = ["Place", "Section"]


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Args:
        name: its id on the page and the stem of its files: letters, digits and `-`.
        title: its heading.
        template: the partial template that draws it; it sees `section`.
        content: what the template needs beside the sheets.
        sheets: its tables; each is written as files, too.
        galleries: the pictures of each of its runs, which may be linked where a page has no room for them.
    """

    name: str
    title: str
    template: str
    content: Mapping[str, Any] = field(default_factory=dict)
    sheets: Sequence[Sheet] = ()
    galleries: Sequence[Sequence[Plot]] = ()


@dataclass(frozen=True)
class Place:
    """Where a page goes.

    Args:
        folder: the page's folder; its links are relative to it.
        page_bytes: what the page may take; pictures of runs that it has no room for are linked.
        redraw: draw every plot again; otherwise one that is newer than its data is kept.
        alone: whether the page alone is written, so that it has to hold all drawings.
    """

    folder: Path
    page_bytes: int = 4_000_000
    redraw: bool = True
    alone: bool = False

    @property
    def plots(self) -> Path | None:
        """Where drawings are written as SVG and PDF."""
        return None if self.alone else self.folder / "plots"
