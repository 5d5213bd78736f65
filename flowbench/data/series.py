"""Forecast data sets: one CSV file each, kept as published and recognised by its hash."""

from dataclasses import dataclass, field
from pathlib import Path

from flowbench.config.registry import series_sets
from flowbench.data.image_set import Download, Status, data_root
from flowbench.data.manifest import has_checksum
from flowbench.errors import InputError

__all__ = ["SeriesSet", "series_path", "series_status"]


@dataclass(frozen=True, kw_only=True)
class SeriesSet:
    """What flowbench knows of a forecast data set; each is one object, registered in `flowbench.data.sets`."""

    name: str
    title: str
    file: str
    """Name of the CSV file, as published."""
    rows: int
    report_split: str = "test"
    numerics: int = 1
    """Raised by hand when a change alters the values: stored results with another value are stale."""
    published: str
    licence: str
    citation: str
    disk_bytes: int
    download: Download
    content: bytes | None = field(default=None, repr=False)
    """The file's bytes, where somebody has it in memory and no file is needed."""

    def how_to_get(self) -> str:
        """Return the command that prepares the set, for the end of an error message."""
        command = f"flowbench data prepare {self.name}"
        return f"run `{command} --download`, or `{command} --source {self.file}`"


def series_path(name: str) -> Path:
    """Return the CSV file of a prepared set; InputError says how to get it where it is missing."""
    known: SeriesSet = series_sets[name]
    path = data_root() / name / known.file
    if not path.is_file():
        raise InputError(f"{name} is not prepared in {data_root()}: {known.how_to_get()}")
    return path


def series_status(name: str) -> Status:
    """Say whether a prepared file is the published one."""
    known: SeriesSet = series_sets[name]
    if known.content is not None:
        return "own data"
    return "verified" if has_checksum(series_path(name), known.download.checksum) else "unverified"
