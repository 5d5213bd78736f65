"""Images in an LMDB, as LSUN publishes them: read with lmdb itself, without locks, and nothing cached beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lmdb

from flowbench.data.pictures import MAX_ENCODED_BYTES
from flowbench.data.readers import Payload
from flowbench.errors import InputError

__all__ = ["LmdbReader", "lmdb_images"]

STRIDE = 256


@dataclass(frozen=True)
class LmdbReader:
    """Values of an LMDB in the order of their keys; every 256th key is known, to start from."""

    path: Path
    count: int
    starts: tuple[bytes, ...]

    def __len__(self) -> int:
        return self.count

    @property
    def identity(self) -> str:
        """The number of entries; the file says the rest."""
        return str(self.count)

    @property
    def files(self) -> Sequence[Path]:
        """The database's file."""
        return (self.path / "data.mdb",)

    def piece(self, start: int, stop: int) -> "_LmdbPiece":
        """Return the images start … stop - 1."""
        return _LmdbPiece(self.path, self.starts[start // STRIDE], start % STRIDE, stop - start)


@dataclass(frozen=True)
class _LmdbPiece:
    path: Path
    key: bytes
    skip: int
    count: int

    def __iter__(self) -> Iterator[tuple[str, Payload]]:
        with _opened(self.path) as database, database.begin(buffers=True) as transaction:
            cursor = transaction.cursor()
            cursor.set_key(self.key)
            values = cursor.iternext()
            for number, (key, value) in enumerate(values):
                if number >= self.skip + self.count:
                    return
                if number >= self.skip:
                    name = bytes(key).decode("utf-8", "backslashreplace")
                    yield f"{self.path}: {name}", bytes(value) if len(value) <= MAX_ENCODED_BYTES else b""


def lmdb_images(path: Path) -> LmdbReader:
    """Count the entries of an LMDB and note every 256th key; InputError if it cannot be read."""
    try:
        with _opened(path) as database, database.begin() as transaction:
            cursor = transaction.cursor()
            starts, count = [], 0
            for key in cursor.iternext(keys=True, values=False):
                if count % STRIDE == 0:
                    starts.append(bytes(key))
                count += 1
    except lmdb.Error as error:
        raise InputError(f"{path}: damaged or no LMDB ({' '.join(str(error).split())[:120]})") from error
    return LmdbReader(path, count, tuple(starts))


def _opened(path: Path) -> lmdb.Environment:
    return lmdb.open(str(path), readonly=True, lock=False, create=False, readahead=False, max_spare_txns=0)
