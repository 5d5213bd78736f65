"""Pictures on a page: embedded, described in words, and as files beside it."""

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flowbench.figures.theme import save, themed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Plot", "embed", "save_plot"]

_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Plot:
    """One picture.

    Args:
        title: its caption.
        alt: what a person who cannot see it is told.
        uri: the picture itself as a data: address; None: too large to be embedded, the files are linked.
        files: its files, relative to the page, by format (`SVG`, `PDF`, `PNG`).
        drawn: whether it is a drawing, which the dark page may invert, rather than photographs or samples.
        wide: whether it needs the whole width.
    """

    title: str
    alt: str
    uri: str | None
    files: dict[str, str] = field(default_factory=dict)
    drawn: bool = False
    wide: bool = False


def embed(path: Path) -> str:
    """Return an SVG or PNG file as a data: address."""
    return f"data:{_KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def save_plot(figure: "Figure", stem: Path, *, page: Path, title: str, alt: str, wide: bool = False) -> Plot:
    """Write a drawing as `stem`.svg and `stem`.pdf and return it as a picture for the page in the folder `page`."""
    with themed():  # the ids inside an SVG and its kind of text are the theme's, and are settled on saving
        vector = save(figure, stem.with_name(f"{stem.name}.svg"))
        paper = save(figure, stem.with_name(f"{stem.name}.pdf"))
    files = {path.suffix[1:].upper(): path.relative_to(page).as_posix() for path in (vector, paper)}
    return Plot(title, alt, embed(vector), files, drawn=True, wide=wide)
