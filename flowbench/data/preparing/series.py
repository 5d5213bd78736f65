"""Forecast sets put in their place: the published file, from a folder or by download."""

import shutil
from pathlib import Path

from flowbench.data.image_set import data_root
from flowbench.data.manifest import file_sha256, has_checksum
from flowbench.data.preparing.download import download
from flowbench.data.readers.source import damaged
from flowbench.data.series import SeriesSet
from flowbench.errors import InputError
from flowbench.system.atomic import replacing

__all__ = ["prepare_series"]

MAX_CSV_BYTES = 2**30


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
