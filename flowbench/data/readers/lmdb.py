"""Images in an LMDB, as LSUN publishes them: read with lmdb itself, without locks, and nothing cached beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import lmdb

from flowbench.data.readers.source import MAX_ENCODED_BYTES, Payload, damaged
from flowbench.errors import InputError

__all__ = ["LmdbReader", "lmdb_images"]

STRIDE = 256
LISTED_AT_ONCE = 2**14


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
        try:
            with _opened(self.path) as database, database.begin(buffers=True) as transaction:
                cursor = transaction.cursor()
                cursor.set_key(self.key)
                for number, (key, value) in enumerate(cursor.iternext()):
                    if number >= self.skip + self.count:
                        return
                    if number >= self.skip:
                        name = bytes(key).decode("utf-8", "backslashreplace")
                        yield f"{self.path}: {name}", bytes(value) if len(value) <= MAX_ENCODED_BYTES else b""
        except lmdb.Error as error:
            raise _damaged(self.path, error) from error


def lmdb_images(path: Path) -> LmdbReader:
    """Count the entries of an LMDB and note every 256th key; InputError if it cannot be read."""
    starts: list[bytes] = []
    count, last = 0, None
    try:
        while True:
            # Opened again and again: pages that were looked at count as this process's memory until it is closed.
            with _opened(path) as database, database.begin() as transaction:
                _refuse_truncated(path / "data.mdb", database)
                cursor = transaction.cursor()
                if not (cursor.first() if last is None else cursor.set_key(last) and cursor.next()):
                    return LmdbReader(path, count, tuple(starts))
                for key in islice(cursor.iternext(keys=True, values=False), LISTED_AT_ONCE):
                    if count % STRIDE == 0:
                        starts.append(bytes(key))
                    count, last = count + 1, bytes(key)
    except lmdb.Error as error:
        raise _damaged(path, error) from error


def _refuse_truncated(file: Path, database: lmdb.Environment) -> None:
    # Reading a page past the file's end does not raise an error: it kills the process (SIGBUS).
    expected = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    found = file.stat().st_size
    if found < expected:
        raise InputError(f"{file}: truncated: {found:,} bytes of {expected:,}: download or unpack it again")


def _opened(path: Path) -> lmdb.Environment:
    return lmdb.open(str(path), readonly=True, lock=False, create=False, readahead=False, max_spare_txns=0)


def _damaged(path: Path, error: lmdb.Error) -> InputError:
    return damaged(path / "data.mdb", "an LMDB", str(error).removeprefix(f"{path}: "))
