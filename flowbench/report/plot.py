"""Pictures on a page: embedded, described in words, and as files beside it."""

import base64
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from PIL import Image

from flowbench.figures.theme import save, svg_text, themed
from flowbench.report.vector import compact_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Plot", "embed", "save_plot"]

HEAD = 4_000
"""Characters of an address in which an SVG file says its size."""
_KINDS = {".png": "image/png", ".webp": "image/webp"}


@dataclass
class Plot:
    """One picture.

    Args:
        title: its caption.
        alt: what a person who cannot see it is told.
        uri: the picture itself as a data: address; None: the page has no room for it, the files are linked.
        files: its files, relative to the page, by format (`SVG`, `PDF`, `PNG`, `WEBP`); none: the page holds all of it.
        drawn: whether it is a drawing, which the dark page may invert, rather than photographs or samples.
        wide: whether it needs the whole width.
        source: the file that is embedded where the page has room for it.
    """

    title: str
    alt: str
    uri: str | None
    files: dict[str, str] = field(default_factory=dict)
    drawn: bool = False
    wide: bool = False
    source: Path | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the embedded picture, which keep its place until it is drawn; None: not known."""
        if self.uri is None:
            return None
        kind, _, content = self.uri.partition(",")
        if not kind.startswith("data:image/svg"):
            try:
                with Image.open(io.BytesIO(base64.b64decode(content))) as image:
                    return image.size
            except OSError:
                return None
        found = re.search(r'<svg[^>]* viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ([\d.]+)"', unquote(content[:HEAD]))
        return None if found is None else (round(float(found[1])), round(float(found[2])))


def embed(path: Path) -> str:
    """Return an SVG, PNG or WebP file as a data: address."""
    if path.suffix == ".svg":
        return _as_uri(path.read_text(encoding="utf-8"))
    return f"data:{_KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def save_plot(figure: "Figure", stem: Path | None, *, page: Path, title: str, alt: str, wide: bool = False) -> Plot:
    """Return a drawing as a picture for the page in the folder `page`.

    Args:
        figure: the drawing.
        stem: it is written to `stem`.svg and `stem`.pdf, too; None: only the page holds it, as small as it can be.
        page: the folder that links are relative to.
        title: its caption.
        alt: what a person who cannot see it is told.
        wide: whether it needs the whole width.
    """
    with themed():  # the ids inside an SVG and its kind of text are the theme's, and are settled on saving
        if stem is None:
            return Plot(title, alt, _as_uri(compact_svg(svg_text(figure))), drawn=True, wide=wide)
        vector = save(figure, stem.with_name(f"{stem.name}.svg"))
        paper = save(figure, stem.with_name(f"{stem.name}.pdf"))
    files = {path.suffix[1:].upper(): path.relative_to(page).as_posix() for path in (vector, paper)}
    return Plot(title, alt, embed(vector), files, drawn=True, wide=wide)


def _as_uri(svg: str) -> str:
    # As text it is smaller than as base64; the few signs that HTML would write longer are escaped.
    return f"data:image/svg+xml;charset=utf-8,{quote(svg, safe=' !$()*+,-./:;=?@[]^_`{|}~')}"
