"""Sources that are encoded images: a folder, a tar, a zip, an LMDB; none is ever unpacked."""

import hashlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, cast

from flowbench.data.readers.picture_files import is_image
from flowbench.data.readers.source import MAX_ENCODED_BYTES, Payload, damaged
from flowbench.errors import InputError

__all__ = [
    "FolderReader",
    "TarReader",
    "ZipReader",
    "bounded_tar",
    "refuse_unsafe",
    "tar_images",
    "zip_images",
]

MAX_HEADER_BYTES = 2**20


@dataclass(frozen=True)
class FolderReader:
    """Image files in a folder, in the order of `names`."""

    root: Path
    names: tuple[str, ...]
    files: Sequence[Path] = ()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the names."""
        return _digest_of((str(self.root), *self.names))

    def piece(self, start: int, stop: int) -> "_FolderPiece":
        """Return the images start … stop - 1."""
        return _FolderPiece(self.root, self.names[start:stop])


@dataclass(frozen=True)
class _FolderPiece:
    root: Path
    names: tuple[str, ...]

    @property
    def state(self) -> str:
        """SHA-256 of the files' sizes and times: what another export under the same names has not."""
        return _digest_of(self._state_of(name) for name in self.names)

    def _state_of(self, name: str) -> str:
        try:
            found = (self.root / name).stat()
        except OSError:
            return "gone"  # reading it says so
        return f"{found.st_size} {found.st_mtime_ns}"

    def __iter__(self) -> Iterator[tuple[str, Payload]]:
        for name in self.names:
            path = self.root / name
            try:
                state = path.stat()
                # A pipe would be waited for, for ever; what is too large for an image fails to decode, by name.
                usable = stat.S_ISREG(state.st_mode) and state.st_size <= MAX_ENCODED_BYTES
                yield str(path), path.read_bytes() if usable else b""
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class TarReader:
    """Images in an uncompressed tar, read at their offsets."""

    path: Path
    members: tuple[tuple[str, int, int], ...]
    """(name, offset, bytes) of each image."""
    identity: str = ""

    def __len__(self) -> int:
        return len(self.members)

    @property
    def files(self) -> Sequence[Path]:
        """The archive."""
        return (self.path,)

    def piece(self, start: int, stop: int) -> "_TarPiece":
        """Return the images start … stop - 1."""
        return _TarPiece(self.path, self.members[start:stop])


@dataclass(frozen=True)
class _TarPiece:
    path: Path
    members: tuple[tuple[str, int, int], ...]

    def __iter__(self) -> Iterator[tuple[str, Payload]]:
        with self.path.open("rb") as file:
            for name, offset, size in self.members:
                file.seek(offset)
                yield f"{self.path}: {name}", file.read(size)


def bounded_tar(file: IO[bytes], path: Path, at_once: int, end: int | None = None) -> tarfile.TarFile:
    """Open a tar whose headers may not make `tarfile` read without bounds: it takes each at the size that it declares.

    Args:
        file: the archive's bytes, unpacked.
        path: the archive, to be named in the InputError that reading further raises.
        at_once: bytes that may be read in one piece.
        end: where reading must stop at last; None: where the file ends.
    """
    return tarfile.open(fileobj=cast(IO[bytes], _BoundedFile(file, path, at_once, end)), mode="r:")


class _BoundedFile:
    def __init__(self, file: IO[bytes], path: Path, at_once: int, end: int | None) -> None:
        self._file, self._path, self._at_once, self._end = file, path, at_once, end

    def read(self, size: int) -> bytes:
        # A negative size, which a header may declare too, would be all there is.
        if not 0 <= size <= self._at_once:
            self._refuse(size)
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, place: int) -> int:
        # A compressed file is unpacked on the way there.
        self._check(place)
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def _check(self, place: int) -> None:
        if place < 0 or (self._end is not None and place > self._end):
            self._refuse(place)

    def _refuse(self, size: int) -> None:
        raise InputError(f"{self._path}: declares {size:,} bytes: refused as a decompression bomb")


def tar_images(path: Path) -> TarReader:
    """List the images of an uncompressed tar by one walk over its headers.

    Raises:
        InputError: no readable tar, a link or device in it, a name that leads outside, an entry too large.
    """
    members = []
    try:
        with path.open("rb") as file, bounded_tar(file, path, MAX_HEADER_BYTES) as archive:
            while (member := archive.next()) is not None:
                refuse_unsafe(path, member.name)
                if not (member.isfile() or member.isdir()):
                    raise InputError(f"{path}: {member.name}: a link or a device: refused")
                if member.isfile() and is_image(member.name):
                    _refuse_large(path, member.name, member.size)
                    members.append((member.name, member.offset_data, member.size))
                # tarfile remembers every member: a gigabyte for ImageNet's million.
                archive.members = []  # type: ignore[attr-defined]
            end = archive.offset
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise damaged(path, "an uncompressed tar", error) from error
    with path.open("rb") as file:
        file.seek(end)
        # Cut between two images, a tar looks whole but for the empty block that ends it.
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise InputError(f"{path}: truncated: it has no end after {len(members):,} images")
    return TarReader(path, tuple(sorted(members)))


@dataclass(frozen=True)
class ZipReader:
    """Images in a zip, read one by one."""

    path: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the names: which images of the archive these are, in which order."""
        return _digest_of(self.names)

    @property
    def files(self) -> Sequence[Path]:
        """The archive."""
        return (self.path,)

    def piece(self, start: int, stop: int) -> "_ZipPiece":
        """Return the images start … stop - 1."""
        return _ZipPiece(self.path, self.names[start:stop])


@dataclass(frozen=True)
class _ZipPiece:
    path: Path
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[str, Payload]]:
        with zipfile.ZipFile(self.path) as archive:
            for name in self.names:
                try:
                    # The declared size was checked; zipfile reads no byte more than it declares.
                    yield f"{self.path}: {name}", archive.read(name)
                except (
                    zipfile.BadZipFile,
                    OSError,
                    EOFError,
                    ValueError,
                    RuntimeError,
                    NotImplementedError,
                    zlib.error,
                ):
                    # Decoding nothing fails, by name, in the same way as a broken image in a folder.
                    yield f"{self.path}: {name}", b""


def zip_images(path: Path) -> ZipReader:
    """List the images of a zip.

    Raises:
        InputError: no readable zip, a link in it, a name that leads outside, an entry too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise damaged(path, "a zip", error) from error
    names = []
    for entry in entries:
        refuse_unsafe(path, entry.filename)
        if (entry.external_attr >> 16) & 0o170000 == 0o120000:
            raise InputError(f"{path}: {entry.filename}: a link: refused")
        if is_image(entry.filename):
            _refuse_large(path, entry.filename, entry.file_size)
            names.append(entry.filename)
    return ZipReader(path, tuple(sorted(names)))


def _digest_of(words: Iterable[str]) -> str:
    digest = hashlib.sha256()
    # One by one: joined, the names of millions of images are half a gigabyte.
    for word in words:
        digest.update(word.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def refuse_unsafe(path: Path, name: str) -> None:
    """Raise InputError if an archive's entry is named so that unpacking it would write elsewhere."""
    # Nothing is unpacked, so nothing could be written there; such an archive is not what it says it is.
    place = PurePosixPath(name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or ":" in name[:3]:
        raise InputError(f"{path}: {name!r} leads outside the archive: refused")


def _refuse_large(path: Path, name: str, size: int) -> None:
    if size > MAX_ENCODED_BYTES:
        raise InputError(f"{path}: {name}: {size:,} bytes: refused as a decompression bomb")
