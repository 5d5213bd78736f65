"""Whether the data that lie here are those of a run: a name or a path says nothing about the bytes behind it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flowbench.config.registry import image_sets, series_sets
from flowbench.config.schema import Experiment, ForecastData
from flowbench.data.image_set import data_root
from flowbench.data.images import open_split
from flowbench.data.manifest import MANIFEST, file_sha256, read_manifest
from flowbench.data.series import series_path
from flowbench.errors import FlowbenchError, InputError
from flowbench.runs.folder import RunFolder

__all__ = ["Change", "arrays_here", "change_of_data", "check_same_data", "fingerprints_here"]


class Change(NamedTuple):
    """Data that are not a run's any more."""

    part: str
    """A split or a file; where only the order of images is another, the file of them."""
    then: str
    """Its fingerprint in the run's `environment.json`."""
    now: str
    kind: str = "fingerprint"


def check_same_data(run: RunFolder) -> None:
    """Raise InputError, with both fingerprints and the ways out, where a run's data lie here with another content.

    Data that are not here at all are no error: whoever needs them says so.
    """
    change = change_of_data(run)
    if change is None:
        return
    data = run.experiment.data
    name = data.csv if data.name is None else data.name
    raise InputError(
        f"{run.path}: was begun on other data than lie here now: {name}, {change.part}: {change.kind} {change.then} in "
        f"environment.json, now {change.now}: put the earlier data back, train on these in another --run-dir, or "
        f"measure this run on them (evaluate --data {name})"
    )


def change_of_data(run: RunFolder) -> Change | None:
    """Return the first part of a run's data that lies here with another content, or with its images in another order.

    Batches, what is held out, noise and all that is kept for each image go by an image's place. None: all that is here
    is the same.
    """
    recorded = run.environment.get("data", {})
    # Runs from before the parts were recorded know what they were trained on.
    trained = "file" if run.experiment.kind == "forecast" else "train"
    then = {**recorded.get("fingerprints", {}), trained: recorded.get("fingerprint")}
    for part, now in fingerprints_here(run.experiment).items():
        if then.get(part) not in (None, now):
            return Change(part, then[part], now)
    in_order = recorded.get("arrays", {})
    for file, now in arrays_here(run.experiment).items():
        if in_order.get(file) not in (None, now):
            return Change(file, in_order[file], now, "the same images in another order, SHA-256")
    return None


def fingerprints_here(experiment: Experiment[Any, Any]) -> dict[str, str]:
    """Return the fingerprints of an experiment's data as they lie here, by part.

    The parts are the splits of an image set; of a series `file`, and `test_on`, whose test part is tested on instead.
    """
    data = experiment.data
    if isinstance(data, ForecastData):
        files = {"file": data, **({} if data.test_on is None else {"test_on": data.tested})}
        return {part: digest for part, file in files.items() if (digest := _digest(file)) is not None}
    return {split: fingerprint for split, (fingerprint, _) in _images_here(data.name).items()}


def arrays_here(experiment: Experiment[Any, Any]) -> dict[str, str]:
    """Return the SHA-256 of the arrays of an experiment's images, in their order, by file; {} for series.

    A fingerprint of images is the same in any order, that of a series is its file's.
    """
    if isinstance(experiment.data, ForecastData):
        return {}
    parts = _images_here(experiment.data.name).values()
    return {file: digest for _, arrays in parts for file, digest in arrays.items()}


def _images_here(name: str) -> dict[str, tuple[str, Mapping[str, str]]]:
    """Return the fingerprint and the digests of the arrays of each split of an image set that lies here."""
    try:
        known = image_sets[name]
        if known.embedded:
            opened = [open_split(name, split) for split in known.counts]
            return {images.split: (images.fingerprint, images.arrays) for images in opened}
        folder = data_root() / name
        splits = read_manifest(folder).splits if (folder / MANIFEST).is_file() else {}
    except FlowbenchError:
        return {}
    return {split: (record.content_sha256, record.files) for split, record in splits.items()}


def _digest(data: ForecastData) -> str | None:
    """Return the SHA-256 of a series' file; None where it is not here."""
    try:
        if data.name is None:
            return None if data.csv is None else file_sha256(Path(data.csv))
        content: bytes | None = series_sets[data.name].content
        return file_sha256(series_path(data.name)) if content is None else hashlib.sha256(content).hexdigest()
    except (FlowbenchError, OSError):
        return None
