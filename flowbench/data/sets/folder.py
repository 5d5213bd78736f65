"""Folders of one's own images: the slot `folder`, and as many sets with names of their own as are prepared."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from flowbench.config.registry import image_sets, series_sets
from flowbench.data.image_set import ImageSet, Options, Split, data_root
from flowbench.data.manifest import MANIFEST, read_manifest
from flowbench.data.preparing.parts import find_parts
from flowbench.data.preparing.pictures import FORMATS, ShortSide, decode
from flowbench.data.preparing.places import equal_images
from flowbench.data.readers.files import FolderReader
from flowbench.data.readers.picture_files import has_pictures, image_names, not_taken
from flowbench.data.readers.source import BrokenImageError, SplitSource
from flowbench.errors import InputError

__all__ = ["ImageFolder"]

SPLIT_SEED = 0
SLOT = "folder"
FORMAT = "folder of images"
CHANNELS = {"L": 1, "RGB": 3}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
"""What may be a folder's name everywhere, and no number in an experiment file."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageSet):
    """Any folder of images: parts by the usual names of sub-folders, or all together, a random fifth held out.

    Without `--size` the images are taken as they are and must have one size; with it, the shorter side is resized to
    that many pixels, and square crops are cut when they are fed (`data.crop`).
    """

    @property
    def command(self) -> str:
        """What prepares it."""
        return f"flowbench data prepare {SLOT}" + (f" --name {self.name}" if self.name != SLOT else "")

    def called(self, name: str) -> "ImageFolder":
        """Return the set of this name of one's own."""
        if not NAME.fullmatch(name) or not isinstance(yaml.safe_load(name), str):
            raise InputError(f"--name {name!r}: begin with a letter, then letters, digits, - and _; no word like true")
        taken = next((known for known in (*image_sets, *series_sets) if known.casefold() == name.casefold()), None)
        if taken is not None and (taken != name or name not in OWN):
            raise InputError(f"--name {name}: there is a data set named {taken}: give yours another name")
        return replace(self, name=name)

    def find(self, source: Path, options: Options) -> dict[Split, SplitSource]:
        """Find the splits, or make them."""
        target = data_root() / self.name
        if target.exists() and _prepared(self.name) is None:
            raise InputError(f"{target}: exists, and is no prepared folder of images: give another --name")
        if not source.is_dir() or not has_pictures(source):
            raise self.not_found(source)
        parts = find_parts(source)
        left_out = {split: not_taken(folder) for split, folder in parts.folders.items()}
        left_out["train"] += parts.outside
        if not options.skip_broken:
            _refuse_to_leave_out(source, [one for of_split in left_out.values() for one in of_split])
        readers = {split: FolderReader(folder, image_names(folder)) for split, folder in parts.folders.items()}
        if len(readers) == 1:
            readers = _held_out(readers["train"])
        shape = _first(readers["train"])
        found: dict[Split, SplitSource] = {}
        for split, reader in readers.items():
            whole = equal_images(reader, shape, FORMAT)
            sized = whole if options.size is None else _resized(reader, options.size, shape[2])
            found[split] = replace(sized, not_taken=Counter(kind for _, kind in left_out.get(split, ())))
        return found


class _OwnSets(Mapping[str, ImageFolder]):
    """The slot, and every set of one's own that is prepared in the data root at the moment."""

    def __getitem__(self, name: str) -> ImageFolder:
        found = _prepared(name) or (FOLDER if name == SLOT else None)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        here = {path.parent.name for path in data_root().glob(f"*/{MANIFEST}")}
        return iter(sorted({SLOT, *(name for name in here if _prepared(name) is not None)}))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _prepared(name: str) -> ImageFolder | None:
    """Return the set of one's own that is prepared under this name; its figures are of the test part, if it has one."""
    folder = data_root() / name
    if not NAME.fullmatch(name) or not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(folder)
    except InputError:
        # Opened, it says what is damaged; prepared, it is replaced.
        return replace(FOLDER, name=name)
    if manifest.source.format != FORMAT:
        return None
    return replace(FOLDER, name=name, report_split="test" if "test" in manifest.splits else "validation")


def _refuse_to_leave_out(source: Path, left_out: Sequence[tuple[str, str]]) -> None:
    kinds = Counter(kind for _, kind in left_out)
    if not kinds:
        return
    first = {kind: name for name, kind in reversed(left_out)}
    counted = ", ".join(f"{count} {kind} ({first[kind]}{', …' if count > 1 else ''})" for kind, count in kinds.items())
    raise InputError(
        f"--source {source}: {counted} would be left out: taken are {', '.join(FORMATS)}; convert or move them, or "
        "leave them out with --skip-broken"
    )


def _held_out(every: FolderReader) -> dict[Split, FolderReader]:
    count = len(every)
    if count < 5:
        raise InputError(f"--source {every.root}: {count} images are too few to hold a fifth out for test")
    order = np.random.Generator(np.random.Philox(key=SPLIT_SEED)).permutation(count)
    cut = count // 5

    def part(chosen: np.ndarray[tuple[int], np.dtype[np.int64]]) -> FolderReader:
        return FolderReader(every.root, tuple(every.names[index] for index in sorted(chosen.tolist())))

    return {"train": part(order[cut:]), "test": part(order[:cut])}


def _first(reader: FolderReader) -> tuple[int, int, int]:
    """Return (height, width, channels) of the first image that can be used: the others must agree."""
    reason = "none of a format that is taken"
    for name, payload in reader.piece(0, len(reader)):
        try:
            image = decode(payload)
        except BrokenImageError as error:
            # Preparation meets it again, and says so or leaves it out as it was told.
            reason = f"{name}: {error}"
            continue
        if image.mode in CHANNELS:
            return image.height, image.width, CHANNELS[image.mode]
        reason = f"{name}: mode {image.mode}; only RGB and grey (L) images are taken"
    raise InputError(f"{reader.root}: no image that can be used ({reason})")


def _resized(reader: FolderReader, size: int, channels: int) -> SplitSource:
    return SplitSource(
        reader=reader,
        transform=ShortSide(size, channels),
        shape=None,
        channels=channels,
        estimate=size * size * channels * 2,
        format=FORMAT,
        preprocessing={"short_side": size, "resample": "antialiased bilinear", "crop": "square, when fed"},
    )


FOLDER = ImageFolder(
    name=SLOT,
    title="your own images",
    shape=None,
    report_split="test",
    counts={},
    numerics=2,
    published="your own disk",
    licence="your own",
    citation="",
    download_bytes=0,
    disk_bytes=0,
    sources="a folder with images in it, or with train/ and test/ (or validation/)",
)
OWN = _OwnSets()
image_sets.look_in(OWN)
