"""Which files of a source are its images, by their names, and which pictures beside them are not taken."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from flowbench.errors import InputError

__all__ = ["has_pictures", "image_names", "is_image", "not_taken", "pictures"]

# What `pictures.FORMATS` decodes.
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".ppm", ".pgm", ".pnm")
# Pictures that are not decoded: several frames or depths in one file, vectors, or no decoder that is always there.
OTHERS = re.compile(
    r"\.(apng|arw|avif|cr2|cr3|dcm|dds|dib|dng|eps|exr|gif|hdr|heic|heif|ico|j2k|jp2|jpx|jxl|nef|orf"
    r"|pbm|pcx|psd|raf|rw2|sgi|svg|svgz|tga|tiff?|xbm|xcf|xpm)"
)
# How pictures begin whose names do not say that they are some: PNG, JPEG, GIF, TIFF, Photoshop.
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"8BPS")
# HEIF and AVIF: after four bytes of length.
LATER_SIGNATURES = (b"ftyphe", b"ftypmif1", b"ftypavif")


def is_image(name: str) -> bool:
    """Say whether a file is taken as an image: by its suffix, and not hidden (macOS writes `._1.png` and __MACOSX)."""
    return name.lower().endswith(SUFFIXES) and not any(map(_hidden, PurePosixPath(name).parts))


def image_names(root: Path) -> tuple[str, ...]:
    """Return the names of all image files under `root`, relative to it, sorted; links to folders are not followed."""
    return tuple(sorted(name for name in _files(root) if is_image(name)))


def not_taken(root: Path) -> tuple[tuple[str, str], ...]:
    """Return (name, kind) of what lies under `root` and is left out though it is a picture, or a folder of them."""
    return tuple(sorted((name, kind) for name in _files(root) if (kind := _kind(root, name)) is not None))


def pictures(folder: Path) -> Iterator[str]:
    """Yield the name of every picture under `folder`, taken or not, relative to it, in no order."""
    return (name for name in _files(folder) if is_image(name) or _kind(folder, name) is not None)


def has_pictures(folder: Path) -> bool:
    """Say whether any picture lies under `folder`, taken or not."""
    return any(True for _ in pictures(folder))


def _files(root: Path) -> Iterator[str]:
    """Yield files and links to folders that are not hidden, relative to `root`."""
    for folder, folders, files in os.walk(root, onerror=_refuse):
        place = Path(folder).relative_to(root).as_posix()
        start = "" if place == "." else f"{place}/"
        folders[:] = [name for name in folders if not _hidden(name)]
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        yield from (start + name for name in [*files, *links] if not _hidden(name))


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _kind(root: Path, name: str) -> str | None:
    """Return what kind of picture this is that is not taken, None if it is taken or no picture."""
    suffix, path = PurePosixPath(name).suffix.lower(), root / name
    if suffix in SUFFIXES:
        return None
    if path.is_dir():
        return "links to folders"
    return (suffix or "without a suffix") if OTHERS.fullmatch(suffix) or _begins_as_picture(path) else None


def _begins_as_picture(path: Path) -> bool:
    # A pipe would be waited for, for ever.
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    return start.startswith(SIGNATURES) or start[8:12] == b"WEBP" or start[4:].startswith(LATER_SIGNATURES)
