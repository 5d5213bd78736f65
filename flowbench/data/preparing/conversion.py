"""One piece of a source turned into prepared images, in whatever process; done once, recorded, never done again.

A split of equal images is one .npy file, laid out before the work begins: each piece writes its own rows. Images that
differ in size go to one flat shard a piece. Beside them, a record a piece says what is done: preparation that was
killed goes on where it stopped.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from flowbench.data.manifest import Skipped
from flowbench.data.readers.source import BrokenImageError, Payload, Piece, Transform
from flowbench.errors import InputError
from flowbench.system.atomic import replacing

__all__ = ["Done", "Task", "convert", "lay_out", "load_done", "shard_name", "skip_header", "state_of"]


@dataclass(frozen=True)
class Task:
    """A piece of a split: picklable, so that any process can do it."""

    folder: Path
    split: str
    number: int
    first: int
    """Number of its first image in the source."""
    count: int
    piece: Piece
    transform: Transform
    shape: tuple[int, int, int] | None
    skip_broken: bool

    @property
    def record(self) -> Path:
        """The file that says that this piece is done."""
        return self.folder / f"{self.split}-{self.number:05d}.npz"


@dataclass(frozen=True)
class Done:
    """What a piece left behind: rows by prepared image, in order."""

    digests: NDArray[np.uint8]
    """SHA-256 of each prepared image, (k, 32)."""
    originals: NDArray[np.uint8]
    """SHA-256 of each encoded image as it lay in the source, (k, 32); (0, 32) where the source holds arrays."""
    places: NDArray[np.int64]
    """(offset, height, width) in the piece's shard, (k, 3)."""
    skipped: tuple[Skipped, ...]
    state: str
    """Of the files that they were made of (`state_of`)."""


def state_of(piece: Piece) -> str:
    """Return what tells a piece's files from others under their names; "" where the plan of all tells it already."""
    return str(getattr(piece, "state", ""))


def lay_out(path: Path, shape: tuple[int, ...]) -> None:
    """Make the .npy file that the pieces of a split write their rows into."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))


def skip_header(file: BinaryIO) -> None:
    """Go to the first row of a .npy file laid out by `lay_out`."""
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)


def shard_name(split: str, number: int) -> str:
    """Return the name of a shard of images that differ in size."""
    return f"{split}-{number:05d}.npy"


def convert(task: Task) -> int:
    """Do a piece and record it; return the number of source images it went through.

    Raises:
        InputError: a broken image, or one of the wrong size or mode, by name (unless they are skipped); a damaged file.
    """
    kept = _Kept(state_of(task.piece))
    if task.shape is None:
        shard = task.folder / shard_name(task.split, task.number)
        with replacing(shard) as temporary, temporary.open("wb") as file:
            # The size is known at the end only: the header is written again then, at the same length.
            _flat_header(file, 0)
            start = file.tell()
            for pixels in _images(task, kept):
                file.write(pixels.tobytes())
            size = file.tell() - start
            file.seek(0)
            _flat_header(file, size)
            file.flush()
    else:
        row = int(np.prod(task.shape))
        with (task.folder / f"{task.split}.npy").open("r+b") as file:
            skip_header(file)
            file.seek(task.first * row, os.SEEK_CUR)
            for pixels in _images(task, kept):
                file.write(pixels.tobytes())
            file.flush()
            os.fsync(file.fileno())
    kept.write(task.record)
    return task.count


def load_done(path: Path) -> Done:
    """Read a piece's record."""
    with np.load(path, allow_pickle=False) as content:
        skipped = zip(content["skipped"].tolist(), content["reasons"].tolist(), strict=True)
        return Done(
            content["digests"],
            content["originals"],
            content["places"],
            tuple(Skipped(image=image, reason=reason) for image, reason in skipped),
            # Of a preparation that an earlier version began; its pieces of folders are made again.
            str(content["state"]) if "state" in content else "",
        )


class _Kept:
    def __init__(self, state: str) -> None:
        self.state = state
        self.digests: list[bytes] = []
        self.originals: list[bytes] = []
        self.places: list[tuple[int, int, int]] = []
        self.skipped: list[tuple[str, str]] = []
        self._offset = 0

    def add(self, pixels: NDArray[np.uint8], payload: Payload) -> None:
        self.digests.append(hashlib.sha256(pixels.tobytes()).digest())
        if isinstance(payload, bytes):
            self.originals.append(hashlib.sha256(payload).digest())
        self.places.append((self._offset, pixels.shape[0], pixels.shape[1]))
        self._offset += pixels.size

    def write(self, path: Path) -> None:
        with replacing(path) as temporary:
            np.savez(
                temporary,
                digests=np.frombuffer(b"".join(self.digests), np.uint8).reshape(-1, 32),
                originals=np.frombuffer(b"".join(self.originals), np.uint8).reshape(-1, 32),
                places=np.array(self.places, np.int64).reshape(-1, 3),
                skipped=np.array([image for image, _ in self.skipped], np.str_),
                reasons=np.array([reason for _, reason in self.skipped], np.str_),
                state=np.array(self.state, np.str_),
            )


def _images(task: Task, kept: _Kept) -> Iterator[NDArray[np.uint8]]:
    for name, payload in task.piece:
        try:
            pixels = task.transform(payload)
        except BrokenImageError as error:
            if not task.skip_broken:
                raise InputError(f"{name}: {error}; --skip-broken leaves such images out") from error
            kept.skipped.append((name, str(error)))
            continue
        kept.add(pixels, payload)
        yield pixels


def _flat_header(file: BinaryIO, size: int) -> None:
    # Twenty digits' room: numpy pads a header only to 64 bytes, and it must not grow when the size is known.
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},)}}".ljust(117) + "\n"
    content = np.lib.format.magic(1, 0) + len(header).to_bytes(2, "little") + header.encode()
    file.write(content)
