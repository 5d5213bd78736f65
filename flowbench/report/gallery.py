"""The pictures of a run for a page: every picture of its `figures/` folder, largest ones linked."""

import os
from collections.abc import Sequence
from pathlib import Path

from flowbench.figures.theme import description_of
from flowbench.report.plot import Plot, embed

__all__ = ["gallery"]

_SHOWN = (".svg", ".png")
_KNOWN = (".svg", ".png", ".pdf")


def gallery(figures: Path, experiment: str, *, page: Path, limit: int) -> list[Plot]:
    """Return every picture of a run, by name; one that would exceed the limit is linked and not embedded.

    Args:
        figures: the run's folder of pictures; it need not exist.
        experiment: for the texts.
        page: the folder that links are relative to.
        limit: bytes that the embedded pictures may take in all, as files.
    """
    stems: dict[str, list[Path]] = {}
    for path in sorted(figures.glob("*")):
        if path.suffix in _KNOWN and path.is_file():
            stems.setdefault(path.stem, []).append(path)
    plots = []
    for stem, files in stems.items():
        shown = _smallest([path for path in files if path.suffix in _SHOWN])
        fits = shown is not None and shown.stat().st_size <= limit
        limit -= shown.stat().st_size if shown is not None and fits else 0
        name = stem.replace("_", " ").replace("-", " ").capitalize()
        # Our own pictures say inside the file what they show.
        words = "" if shown is None else description_of(shown)
        links = {path.suffix[1:].upper(): Path(os.path.relpath(path, page)).as_posix() for path in files}
        uri = embed(shown) if shown is not None and fits else None
        drawn = shown is not None and shown.suffix == ".svg" and b"<image" not in shown.read_bytes()
        plots.append(
            Plot(words or name, words or f"{name} of {experiment}", uri, links, drawn=drawn, wide=_is_wide(shown))
        )
    return plots


def _smallest(files: Sequence[Path]) -> Path | None:
    return min(files, key=lambda path: path.stat().st_size, default=None)


def _is_wide(path: Path | None) -> bool:
    if path is None or path.suffix != ".png":
        return False
    header = path.read_bytes()[16:24]
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:])
    return height > 0 and width / height > 2
