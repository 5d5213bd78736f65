"""How preparation sees a source: so many images, read piece by piece in whatever process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flowbench.errors import InputError

__all__ = ["MAX_ENCODED_BYTES", "BrokenImageError", "Payload", "Piece", "Reader", "SplitSource", "Transform", "damaged"]

MAX_ENCODED_BYTES = 2**28
"""Of one encoded image."""

Payload = bytes | NDArray[np.uint8]
Transform = Callable[[Payload], NDArray[np.uint8]]
"""Encoded bytes, or an array, → uint8 (height, width, channels); BrokenImageError where that is not possible."""


class BrokenImageError(InputError):
    """One image cannot be used; the message is the reason, preparation adds the image's name."""


def damaged(path: Path, what: str, error: Exception | str) -> InputError:
    """Return the error for a file that is not the `what` it should be; a web page saved in its place is called one."""
    try:
        with path.open("rb") as file:
            start = file.read(512).lstrip().lower()
    except OSError:
        start = b""
    if start.startswith((b"<!doctype html", b"<html")):
        return InputError(f"{path}: a web page, not {what}: a quota or log-in page was downloaded in its place")
    reason = " ".join(str(error).split())[:120]
    return InputError(f"{path}: damaged, truncated or not {what} ({reason})")


class Piece(Protocol):
    """A few images of a source: small, and picklable for another process."""

    def __iter__(self) -> Iterator[tuple[str, Payload]]:
        """Yield (name, payload) of each image."""


class Reader(Protocol):
    """All images of one split in one format."""

    def __len__(self) -> int:
        """Return the number of images."""

    def piece(self, start: int, stop: int) -> Piece:
        """Return the images start … stop - 1."""

    @property
    def identity(self) -> str:
        """What `files` do not say of the source (a hash of the names in a folder); half-done work needs the same."""

    @property
    def files(self) -> Sequence[Path]:
        """The files whose hashes identify the source; empty where each image is a file."""


@dataclass(frozen=True)
class SplitSource:
    """Where a split is read from and what becomes of each image."""

    reader: Reader
    transform: Transform
    shape: tuple[int, int, int] | None
    """(height, width, channels) of every prepared image; None: they differ in size."""
    channels: int
    estimate: int
    """Bytes of one prepared image (about, where they differ), for the check of the disk's space."""
    format: str
    preprocessing: dict[str, object]
    not_taken: Mapping[str, int] = field(default_factory=dict)
    """Pictures of the source that are not among the reader's, counted by kind."""
