"""Data of one's own, given as arrays or a file's bytes: known by their content while the process lives."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowbench.config.registry import image_sets, series_sets
from flowbench.data.image_set import Download, ImageSet, Options, Split, Status
from flowbench.data.images import FixedPixels, Images
from flowbench.data.manifest import array_sha256, content_sha256, image_digests
from flowbench.data.readers.source import SplitSource
from flowbench.data.series import SeriesSet
from flowbench.errors import InputError

__all__ = ["OWN", "OwnImages", "OwnSeries", "images_of", "own_images", "own_series", "split_called"]

OWN = "own-"
"""What the names of such data begin with; the rest follows from their content."""

_images: dict[str, "OwnImages"] = {}
_series: dict[str, "OwnSeries"] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnImages(ImageSet):
    """Arrays that somebody has in memory."""

    arrays: Mapping[Split, NDArray[np.uint8]] = field(repr=False)
    digests: Mapping[Split, str]
    """`content_sha256` of each."""
    orders: Mapping[Split, str]
    """`array_sha256` of each."""

    embedded = True

    def find(self, source: Path, options: Options) -> dict[Split, SplitSource]:
        """Refuse: there is nothing to prepare."""
        raise InputError(f"{self.name}: is data given as arrays: there is nothing to prepare")

    def load(self, split: Split) -> NDArray[np.uint8]:
        """Return the array that was given for a split."""
        return self.arrays[split]

    def fingerprint(self, array: NDArray[np.uint8], split: Split) -> str:
        """Return what was found when they were given."""
        return self.digests[split]

    def order(self, array: NDArray[np.uint8], split: Split) -> str:
        """Return what was found when they were given."""
        return self.orders[split]

    def status(self, split: Split, count: int, fingerprint: str) -> Status:
        """Say that nobody has published these."""
        return "own data"


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnSeries(SeriesSet):
    """A series that somebody has in memory."""

    def how_to_get(self) -> str:
        """Say that only whoever has it can give it."""
        return "give it again as data="


def own_images(arrays: Mapping[str, NDArray[np.uint8]], levels: int) -> str:
    """Make images known to this process, and return the name of their set: the same content has the same name.

    Args:
        arrays: `train`, `test` and, if they are to choose by, `holdout`: uint8 (n, height, width, channels), all images
            of one shape.
        levels: grey levels; values are below.

    Raises:
        InputError: no such part, another type or shape, a value beyond the levels.
    """
    for part, array in arrays.items():
        _check(part, array, levels)
    shapes = {part: array.shape[1:] for part, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"data: images of several shapes: {', '.join(f'{p} {s}' for p, s in shapes.items())}")
    splits: dict[Split, NDArray[np.uint8]] = {_SPLITS[part]: np.ascontiguousarray(a) for part, a in arrays.items()}
    digests = {split: content_sha256(image_digests(array)) for split, array in splits.items()}
    name = _name({"levels": levels, **{str(split): digest for split, digest in digests.items()}})
    height, width, channels = next(iter(shapes.values()))
    _images[name] = OwnImages(
        name=name,
        title="own data",
        shape=(int(channels), int(height), int(width)),
        report_split="test",
        counts={split: len(array) for split, array in splits.items()},
        levels=levels,
        choosing="validation" if "validation" in splits else None,
        published="nowhere: given as arrays",
        licence="your own",
        citation="",
        download_bytes=0,
        disk_bytes=0,
        arrays=splits,
        digests=digests,
        orders={split: array_sha256(array) for split, array in splits.items()},
    )
    return name


def own_series(content: bytes) -> str:
    """Make a series known to this process, and return the name of its set.

    Args:
        content: of the CSV file that it would be (`forecasting.series.read_series` says of which form).
    """
    name = _name({"file": hashlib.sha256(content).hexdigest()})
    _series[name] = OwnSeries(
        name=name,
        title="own data",
        file=f"{name}.csv",
        rows=max(content.count(b"\n") - 1, 0),
        published="nowhere: given as a frame",
        licence="your own",
        citation="",
        disk_bytes=len(content),
        download=Download(url="", file="", checksum=""),
        content=content,
    )
    return name


def images_of(part: str, array: NDArray[np.uint8], levels: int) -> Images:
    """Return images to be measured, checked as in `own_images`, without making them known."""
    _check(part, array, levels)
    array = np.ascontiguousarray(array)
    digest = content_sha256(image_digests(array))
    return Images(f"{OWN}{digest[:12]}", split_called(part), levels, digest, "own data", FixedPixels(array))


def split_called(part: str) -> Split:
    """Return the split that a part of one's own data is kept as; InputError for another word."""
    known: dict[str, Split] = {**_SPLITS, "validation": "validation"}
    if part not in known:
        raise InputError(f"split: {part!r} is none of {', '.join(known)}")
    return known[part]


_SPLITS: dict[str, Split] = {"train": "train", "holdout": "validation", "test": "test"}


def _check(part: str, array: NDArray[np.uint8], levels: int) -> None:
    if part not in _SPLITS:
        raise InputError(f"data: {part!r} is none of its parts: {', '.join(_SPLITS)}")
    if array.dtype != np.uint8:
        raise InputError(f"data: {part}: {array.dtype}: give the uint8 grey levels themselves")
    if array.ndim != 4 or array.shape[3] > 4 or not array.size:
        raise InputError(
            f"data: {part}: an array of shape {array.shape}: give (n, height, width, channels), 1 to 4 channels, or "
            '"layout": "NCHW" beside it'
        )
    if int(array.max()) >= levels:
        raise InputError(f"data: {part}: values reach {int(array.max())}, but data.levels is {levels} (0 … levels − 1)")


def _name(content: Mapping[str, object]) -> str:
    return OWN + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


image_sets.look_in(_images)
series_sets.look_in(_series)
