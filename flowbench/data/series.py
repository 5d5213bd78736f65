"""Forecast data sets: one CSV file each, kept as published and recognised by its hash."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from flowbench.atomic import replacing
from flowbench.data.download import download, has_checksum
from flowbench.data.image_set import Download, Status, data_root
from flowbench.data.manifest import file_sha256
from flowbench.data.readers import damaged
from flowbench.errors import InputError
from flowbench.registry import series_sets

__all__ = ["SeriesSet", "prepare_series", "series_path", "series_status"]

MAX_CSV_BYTES = 2**30


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
    return "verified" if has_checksum(series_path(name), known.download.checksum) else "unverified"


def prepare_series(known: SeriesSet, source: Path | None, timeout: float | None = None) -> Path:
    """Put the CSV file of a set in its place: from a file, a folder that contains it, or (None) by download.

    Raises:
        InputError: the file is not there, or is not the published one.
    """
    target = data_root() / known.name / known.file
    if source is None:
        return download(known.download, target.parent, timeout)
    found = [path for path in (source, source / known.file, source / known.name / known.file) if path.is_file()]
    found += sorted(source.glob(f"*/{known.file}"))
    if not found:
        what = f"no {known.file} in it" if source.exists() else "no such file or folder"
        raise InputError(f"--source {source}: {what}")
    if found[0].stat().st_size > MAX_CSV_BYTES or not has_checksum(found[0], known.download.checksum):
        digest = file_sha256(found[0])[:12]
        reason = f"SHA-256 {digest}…; use a file of your own by data.csv, without preparing it"
        raise damaged(found[0], f"the published {known.file}", reason)
    with replacing(target) as temporary:
        shutil.copyfile(found[0], temporary)
    return target
