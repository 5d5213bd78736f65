"""The pictures of a run for a page: every picture of its `figures/` folder."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from flowbench.figures.theme import description_of
from flowbench.report.plot import Plot, embed
from flowbench.report.raster import is_wide

__all__ = ["embed_within", "gallery"]

_SHOWN = (".svg", ".png", ".webp")
_KNOWN = (*_SHOWN, ".pdf")
TAG_BYTES = 500
"""Around an embedded picture: its tag, with what a person who cannot see it is told."""
_FIRST = "samples"
"""What people look for first."""


def gallery(figures: Path, experiment: str, *, page: Path) -> list[Plot]:
    """Return every picture of a run, samples first, the others by name; `embed_within` embeds them.

    Args:
        figures: the run's folder of pictures; it need not exist.
        experiment: for the texts.
        page: the folder that links are relative to.
    """
    stems: dict[str, list[Path]] = {}
    for path in sorted(figures.glob("*"), key=lambda path: (path.stem != _FIRST, path.name)):
        if path.suffix in _KNOWN and path.is_file():
            stems.setdefault(path.stem, []).append(path)
    plots = []
    for stem, files in stems.items():
        shown = min(
            (path for path in files if path.suffix in _SHOWN), key=lambda path: path.stat().st_size, default=None
        )
        name = stem.replace("_", " ").replace("-", " ").capitalize()
        # Our own pictures say inside the file what they show.
        words = "" if shown is None else description_of(shown)
        links = {path.suffix[1:].upper(): Path(os.path.relpath(path, page)).as_posix() for path in files}
        drawn = shown is not None and shown.suffix == ".svg" and b"<image" not in shown.read_bytes()
        plots.append(
            Plot(
                title=words or name,
                alt=words or f"{name} of {experiment}",
                uri=None,
                files=links,
                drawn=drawn,
                wide=_is_wide(shown),
                source=shown,
            )
        )
    return plots


def embed_within(room: int, galleries: Sequence[Sequence[Plot]]) -> None:
    """Embed the pictures that a page has room for, in bytes: the first one of every run, then the smallest ones.

    What does not fit stays linked.
    """
    sized = [
        (place > 0, plot.source.stat().st_size, plot, plot.source)
        for plots in galleries
        for place, plot in enumerate(plots)
        if plot.source is not None
    ]
    for _, size, plot, source in sorted(sized, key=lambda one: one[:2]):
        if size > room:
            continue
        uri = embed(source)
        if len(uri) + TAG_BYTES <= room:
            plot.uri = uri
            room -= len(uri) + TAG_BYTES


def _is_wide(path: Path | None) -> bool:
    if path is None or path.suffix == ".svg":
        return False
    try:
        with Image.open(path) as image:
            return is_wide(image.size)
    except OSError:
        return False
