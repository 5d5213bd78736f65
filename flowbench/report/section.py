"""A part of a page: what one stored result shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    """

    name: str
    title: str
    template: str
    content: Mapping[str, Any] = field(default_factory=dict)
    sheets: Sequence[Sheet] = ()


@dataclass(frozen=True)
class Place:
    """Where a page goes and how much it may hold.

    Args:
        folder: the page's folder; its links are relative to it.
        picture_bytes: what the pictures of one section may take on the page.
        redraw: draw every plot again; otherwise one that is newer than its data is kept.
    """

    folder: Path
    picture_bytes: int = 3_000_000
    redraw: bool = True

    @property
    def plots(self) -> Path:
        """Where drawings are written as SVG and PDF."""
        return self.folder / "plots"
