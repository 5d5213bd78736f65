"""Batches inside zips: unpacked under names of our own, so that their arrays can be mapped."""

import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from flowbench.data.image_set import data_root
from flowbench.data.readers.files import refuse_unsafe
from flowbench.data.readers.source import damaged
from flowbench.errors import InputError
from flowbench.system.atomic import replacing

__all__ = ["mappable", "unpacked_folder", "unzipped"]

MAX_MEMBER_BYTES = 2**32
MAX_RATIO = 200


def unpacked_folder(name: str) -> Path:
    """Return the folder for a set's unpacked batches; preparation removes it when it is done."""
    return data_root() / f".unpacked-{name}"


def unzipped(archives: Sequence[Path], wanted: Sequence[str], name: str) -> dict[str, Path]:
    """Unpack the batches `wanted` (or `wanted`.npz) from zips into the set's folder; return where each now lies.

    A batch that is there already, with its declared size and checksum, is not unpacked again.

    Raises:
        InputError: a damaged zip, a link or a name that leads outside, a decompression bomb, too little disk space.
    """
    folder = unpacked_folder(name)
    found: dict[str, Path] = {}
    for path in archives:
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    refuse_unsafe(path, entry.filename)
                    file = PurePosixPath(entry.filename).name
                    batch = file.removesuffix(".npz")
                    if batch in wanted and not entry.is_dir():
                        _refuse_bomb(path, entry)
                        found[batch] = _unpack(archive, entry, folder, file)
        except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error) as error:
            raise damaged(path, "a zip that can be read", error) from error
    return found


def mappable(path: Path, key: str, name: str) -> Path:
    """Return `path`, or for a compressed .npz the .npy file of its array `key`, unpacked into the set's folder.

    Raises:
        InputError: a damaged .npz, no such array, a decompression bomb, too little disk space.
    """
    if path.suffix != ".npz":
        return path
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"{key}.npy")
            if entry.compress_type == zipfile.ZIP_STORED:
                return path
            _refuse_bomb(path, entry)
            return _unpack(archive, entry, unpacked_folder(name), f"{path.stem}-{key}.npy")
    except KeyError as error:
        raise InputError(f"{path}: has no array {key!r}: another set?") from error
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error) as error:
        raise damaged(path, "an .npz file", error) from error


def _refuse_bomb(path: Path, entry: zipfile.ZipInfo) -> None:
    if (entry.external_attr >> 16) & 0o170000 == 0o120000:
        raise InputError(f"{path}: {entry.filename}: a link: refused")
    if entry.file_size > MAX_MEMBER_BYTES or entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        raise InputError(f"{path}: {entry.filename}: {entry.file_size:,} bytes: refused as a decompression bomb")


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, name: str) -> Path:
    # By its checksum: arrays of another source have the same names and sizes.
    target = folder / f"{entry.CRC:08x}" / name
    if target.is_file() and target.stat().st_size == entry.file_size:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < entry.file_size:
        raise InputError(f"{target.parent}: {free / 1e9:.1f} GB free, {entry.file_size / 1e9:.1f} GB needed to unpack")
    with replacing(target) as temporary, archive.open(entry) as packed, temporary.open("wb") as file:
        shutil.copyfileobj(packed, file, 2**20)
    return target
