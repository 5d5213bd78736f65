"""What flowbench knows of an image data set before any file is read: what it is, where it is published, its counts."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import platformdirs
from numpy.typing import NDArray

from flowbench.data.manifest import array_sha256, content_sha256, image_digests
from flowbench.data.readers.source import SplitSource
from flowbench.errors import InputError

__all__ = ["Download", "ImageSet", "Options", "Split", "Status", "data_root"]

Split = Literal["train", "validation", "test"]
Status = Literal["verified", "counts match", "own data", "unverified"]


def data_root() -> Path:
    """Return the folder of all prepared sets: FLOWBENCH_DATA, or the platform's user cache."""
    chosen = os.environ.get("FLOWBENCH_DATA")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("flowbench")


@dataclass(frozen=True)
class Download:
    """A file that may be downloaded without asking anybody; checksum: `md5:…`, `sha256:…`, or `git:…` (a blob's id)."""

    url: str
    file: str
    checksum: str


@dataclass(frozen=True)
class Options:
    """Choices of `flowbench data prepare` that change the prepared images."""

    resample: str | None = None
    size: int | None = None
    skip_broken: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageSet(ABC):
    """A data set of images; each is one object, registered in `flowbench.data.sets`."""

    name: str
    title: str
    shape: tuple[int, int, int] | None
    """(channels, height, width) of the images that a model sees; None where the files decide."""
    report_split: Split
    """The split whose figures are reported, as in the papers."""
    counts: Mapping[Split, int]
    """Images per split, as published."""
    fingerprints: Mapping[Split, str] = field(default_factory=dict)
    """`content_sha256` of the splits whose bytes are known."""
    levels: int = 256
    numerics: int = 1
    """Raised by hand when a change alters the images: stored results with another value are stale."""
    published: str
    """Where it is published, and how one gets it."""
    licence: str
    citation: str
    download_bytes: int
    disk_bytes: int
    sources: str = ""
    """What `--source` may be, in words for an error message."""
    download: Download | None = None
    resamples: tuple[str, ...] = ()
    """Modes of `--resample`; first the default, which is that of the published figures."""
    choosing: Split | None = None
    """The split that chooses where `data.holdout` puts no training images aside; never the report split."""
    unnamed_resample: str = "unknown"
    """How the images were resized where a manifest names no mode of `resamples`."""

    embedded = False
    """True: the images come with an installed package and need no preparation."""

    @abstractmethod
    def find(self, source: Path, options: Options) -> dict[Split, SplitSource]:
        """Find the splits in `source`: a folder, its parent, or the archive; InputError if they are not there."""

    def load(self, split: Split) -> NDArray[np.uint8]:
        """Return the images of an embedded set, uint8 (n, height, width, channels)."""
        raise NotImplementedError(f"{self.name} is not embedded")

    def fingerprint(self, array: NDArray[np.uint8], split: Split) -> str:
        """Return the `content_sha256` of the images of an embedded set's split."""
        return content_sha256(image_digests(array))

    def order(self, array: NDArray[np.uint8], split: Split) -> str:
        """Return the SHA-256 of the images of an embedded set's split, in their order."""
        return array_sha256(array)

    def choices(self, preprocessing: Mapping[str, Any]) -> dict[str, str]:
        """Return what was chosen when images were prepared, from their manifest: labels of every figure made of them.

        Empty where the set offers no choice.
        """
        if not self.resamples:
            return {}
        named = preprocessing.get("resample")
        return {"resample": named if named in self.resamples else self.unnamed_resample}

    def prepared_otherwise(self, choices: Mapping[str, Any]) -> bool:
        """Say whether images of these `choices` are other ones than those of the published figures."""
        return bool(self.resamples) and choices.get("resample") != self.resamples[0]

    def refuse_variant(self, counts: Mapping[Split, int]) -> None:
        """Raise InputError if `counts` are recognisably those of another known data set."""
        del counts

    def status(self, split: Split, count: int, fingerprint: str) -> Status:
        """Say how sure we are that these are the published images."""
        if split in self.fingerprints:
            return "verified" if self.fingerprints[split] == fingerprint else "unverified"
        return "counts match" if self.counts.get(split) == count else "unverified"

    @property
    def command(self) -> str:
        """What prepares it, without where it comes from."""
        return f"flowbench data prepare {self.name}"

    def called(self, name: str) -> "ImageSet":
        """Return this set under another name; only folders of one's own images have any."""
        raise InputError(f"--name {name}: not for {self.name}; only for a `folder` of your own images")

    def how_to_get(self) -> str:
        """Return the command that prepares the set, for the end of an error message."""
        if self.download:
            return f"run `{self.command} --download`, or `{self.command} --source PATH` ({self.sources})"
        return f"get it from {self.published}, then run `{self.command} --source PATH` ({self.sources})"

    def not_found(self, source: Path) -> InputError:
        """Return the error for a source in which the set was not found."""
        if not source.exists():
            return InputError(f"--source {source}: no such file or folder")
        return InputError(f"--source {source}: no {self.name} in it; looked for {self.sources}")
