"""Prepared images, opened: memory maps checked against their manifest, subsets, crops and grey levels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from flowbench.config.registry import image_sets
from flowbench.config.schema import DensityData
from flowbench.data.image_set import ImageSet, Split, Status, data_root
from flowbench.data.manifest import MANIFEST, Manifest, SplitRecord, read_manifest
from flowbench.errors import InputError

__all__ = [
    "FixedPixels",
    "Images",
    "VariedPixels",
    "check_split",
    "image_format",
    "load_array",
    "open_images",
    "open_split",
    "reduce_levels",
    "training_parts",
]

CROP_SEED = 0x63726F70
HOLDOUT_SEED = 0x686F6C64


@dataclass(frozen=True)
class FixedPixels:
    """Images of one size in one array, uint8 (n, height, width, channels), usually a memory map."""

    array: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.array)

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return self.array.nbytes

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return int(self.array.shape[3])

    @property
    def smallest(self) -> tuple[int, int]:
        """(height, width) that every image has at least."""
        return int(self.array.shape[1]), int(self.array.shape[2])

    def whole(self) -> Iterable[NDArray[np.uint8]]:
        """Return the images one by one, as stored."""
        return self.array

    def sizes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (height, width) of each of these images: (k, 2)."""
        return np.broadcast_to(np.array(self.array.shape[1:3]), (len(rows), 2))

    def crop(self, rows: NDArray[np.int64], corners: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        """Return the size × size window at each image's (top, left) corner: (k, size, size, channels)."""
        array = np.asarray(self.array)
        return _windows((array[row] for row in rows.tolist()), corners, size, self.channels)


@dataclass(frozen=True)
class VariedPixels:
    """Images that differ in size: flat uint8 shards and an index of (shard, offset, height, width), int64 (n, 4)."""

    shards: Sequence[NDArray[np.uint8]]
    index: NDArray[np.int64]
    channels: int

    def __len__(self) -> int:
        return len(self.index)

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return sum(shard.nbytes for shard in self.shards)

    def sizes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (height, width) of each of these images: (k, 2)."""
        return self.index[rows, 2:]

    @property
    def smallest(self) -> tuple[int, int]:
        """(height, width) that every image has at least."""
        height, width = self.index[:, 2:].min(axis=0)
        return int(height), int(width)

    def whole(self) -> Iterable[NDArray[np.uint8]]:
        """Return the images one by one, as stored."""
        return (self.image(row) for row in range(len(self)))

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return one whole image, (height, width, channels), without a copy."""
        shard, offset, height, width = self.index[row].tolist()
        end = offset + height * width * self.channels
        # A plain array: slices of a memory map are memory maps again, and take 4 times as long to make.
        return np.asarray(self.shards[shard])[offset:end].reshape(height, width, self.channels)

    def crop(self, rows: NDArray[np.int64], corners: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        """Return the size × size window at each image's (top, left) corner: (k, size, size, channels)."""
        return _windows((self.image(row) for row in rows.tolist()), corners, size, self.channels)


@dataclass(frozen=True)
class Images:
    """One split of a data set, or a part of it, ready to be fed."""

    name: str
    split: Split
    levels: int
    """Grey levels: values are 0 … levels - 1."""
    fingerprint: str
    """`content_sha256` of the whole split."""
    status: Status
    pixels: FixedPixels | VariedPixels
    rows: NDArray[np.int64] | None = None
    """Which images of `pixels` these are; None: all, in order."""
    window: int | None = None
    """Side of the square crops that are taken; None: whole images."""
    divisor: int = 1
    """What the stored values are divided by, rounded down, to give `levels`."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """What was chosen when they were prepared (`resample`): labels of every figure made of them."""
    arrays: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each array of the whole split, by its file's name: the order, which `fingerprint` leaves out."""

    def __len__(self) -> int:
        return len(self.pixels) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what a model sees."""
        if self.window is not None:
            return self.pixels.channels, self.window, self.window
        height, width = cast(FixedPixels, self.pixels).array.shape[1:3]
        return self.pixels.channels, int(height), int(width)

    @property
    def nbytes(self) -> int:
        """Bytes that feeding these images from memory takes: windows are cut from whole images, so all of them."""
        whole = self.pixels.nbytes
        return whole if self.window is not None or not len(self.pixels) else whole // len(self.pixels) * len(self)

    @cached_property
    def array(self) -> NDArray[np.uint8]:
        """All images, uint8 (n, height, width, channels): the memory map itself where nothing is left out or changed.

        A part, a crop or a reduction of grey levels is a copy in memory: `take` reads large sets in pieces.
        """
        if isinstance(self.pixels, FixedPixels) and self.rows is None and self.window is None and self.divisor == 1:
            return self.pixels.array
        return self.take(np.arange(len(self)))

    def take(self, indices: NDArray[np.int64], places: NDArray[np.float64] | None = None) -> NDArray[np.uint8]:
        """Return the images at `indices`, uint8 (k, height, width, channels).

        Args:
            indices: (k,), 0 … len(self) - 1.
            places: where crops are cut, (k, 2) in [0, 1) from the top left to the bottom right;
                None: at places fixed by the split and the image's row, the same in every run.
        """
        rows = indices if self.rows is None else self.rows[indices]
        if self.window is None:
            # np.take: 2x faster than indexing; on a memory map, both read only the pages of these rows.
            taken = np.take(cast(FixedPixels, self.pixels).array, rows, axis=0)
        else:
            chosen = self._fixed_places[rows] if places is None else places
            taken = self.pixels.crop(rows, self.corners(rows, chosen), self.window)
        return taken if self.divisor == 1 else taken // np.uint8(self.divisor)

    def corners(self, rows: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the (top, left) of crops at `places` in [0, 1)² of these rows of `pixels`, (k, 2)."""
        window = 0 if self.window is None else self.window
        return (places * (self.pixels.sizes(rows) - window + 1)).astype(np.int64)

    def subset(self, indices: NDArray[np.int64]) -> "Images":
        """Return the part of these images at `indices`."""
        return replace(self, rows=indices if self.rows is None else self.rows[indices])

    @cached_property
    def _fixed_places(self) -> NDArray[np.float64]:
        key = [CROP_SEED, ("train", "validation", "test").index(self.split)]
        return np.random.Generator(np.random.Philox(key=key)).random((len(self.pixels), 2))


def open_split(name: str, split: Split) -> Images:
    """Open one split of a prepared or embedded set.

    Raises:
        InputError: unknown set or split, not prepared (with the way to get it), damaged files.
    """
    known: ImageSet = image_sets[name]
    if known.embedded:
        _check_split(name, split, known.counts)
        array = known.load(split)
        fingerprint = known.fingerprint(array, split)
        status = known.status(split, len(array), fingerprint)
        arrays = {f"{split}.npy": known.order(array, split)}
        return Images(name, split, known.levels, fingerprint, status, FixedPixels(array), arrays=arrays)
    folder, manifest, record = _recorded(known, split)
    status = known.status(split, record.shape[0], record.content_sha256)
    pixels = _open_pixels(folder, split, record)
    choices = known.choices(manifest.preprocessing)
    images = Images(
        name, split, manifest.levels, record.content_sha256, status, pixels, choices=choices, arrays=record.files
    )
    # Varied images cannot be fed whole: crops have the side of the known shape, or of the smallest image.
    if isinstance(pixels, VariedPixels):
        return replace(images, window=known.shape[1] if known.shape else min(pixels.smallest))
    return images


def check_split(name: str, split: Split) -> None:
    """Raise InputError where a split of a prepared or embedded set is not here; its images are not looked at."""
    known: ImageSet = image_sets[name]
    if known.embedded:
        _check_split(name, split, known.counts)
        return
    folder, _, record = _recorded(known, split)
    for file in record.files:
        if not (folder / file).is_file():
            raise InputError(f"{folder / file}: is missing: prepare the set again ({known.how_to_get()})")


def open_images(data: DensityData, split: Split) -> Images:
    """Open a split as an experiment sees it: cropped and with the grey levels of its `data:` section."""
    images = open_split(data.name, split)
    smallest = min(images.pixels.smallest)
    if data.size is not None and data.size != smallest:
        raise InputError(
            f"data.size: {data.size}, but {data.name} is prepared with {smallest} pixels on the shorter side: "
            f"prepare it again with --size {data.size}"
        )
    if data.crop is not None:
        if data.crop > smallest:
            raise InputError(f"data.crop: {data.crop}, but the images of {data.name} have {smallest} pixels at least")
        images = replace(images, window=data.crop)
    return reduce_levels(images, data)


def training_parts(data: DensityData) -> tuple[Images, Images | None]:
    """Return the training images of an experiment and, if `data.holdout` asks for it, those put aside for choosing.

    The permutation that chooses them is fixed: every experiment with the same `data.holdout` puts the same ones aside.
    """
    images = open_images(data, "train")
    choosing = image_sets[data.name].choosing
    if choosing is not None:
        if data.holdout:
            raise InputError(
                f"data.holdout: {data.holdout}, but {data.name} has a part of its own that chooses: give 0"
            )
        return images, open_images(data, choosing)
    if data.holdout == 0:
        return images, None
    if data.holdout >= len(images):
        raise InputError(f"data.holdout: {data.holdout} of {len(images)} training images leaves none to train on")
    order = np.random.Generator(np.random.Philox(key=HOLDOUT_SEED)).permutation(len(images))
    return images.subset(np.sort(order[data.holdout :])), images.subset(np.sort(order[: data.holdout]))


def reduce_levels(images: Images, data: DensityData) -> Images:
    """Reduce the grey levels as `data.bits` says: floor(x / 2^(8 - bits)); Kingma & Dhariwal 2018, section 6.

    `data.levels` only says how many levels there are; it must agree with the set.
    """
    _check_levels(data, images.name, images.levels)
    if data.bits == 8:
        return images
    return replace(images, levels=2**data.bits, divisor=2 ** (8 - data.bits))


def _check_levels(data: DensityData, name: str, levels: int) -> None:
    if data.levels is not None and data.levels != levels:
        raise InputError(f"data.levels: {data.levels}, but {name} has {levels} grey levels")
    if data.bits != 8 and levels != 256:
        raise InputError(f"data.bits: {data.bits} reduces images of 256 levels; {name} has {levels}")


def image_format(
    data: DensityData, shape: tuple[int, int, int] | None = None
) -> tuple[tuple[int, int, int], int]:  # fmt: skip
    """Return (channels, height, width) and the grey levels of the images that a model will see, without opening any.

    Args:
        data: of an experiment.
        shape: asked for instead of the set's own.

    Raises:
        InputError: only the files of this set could tell; levels that it does not have.
    """
    known = image_sets[data.name]
    if shape is None and data.crop is not None:
        shape = (3 if known.shape is None else known.shape[0], data.crop, data.crop)
    shape = shape or known.shape
    if shape is None:
        raise InputError(f"data.crop: the images of {data.name} have no size of their own: give one, as data.crop=64")
    # Where the files decide, an experiment may know what they say.
    levels: int = known.levels if known.shape is not None else data.levels or known.levels
    _check_levels(data, data.name, levels)
    return shape, levels if data.bits == 8 else 2**data.bits


def load_array(path: Path) -> NDArray[np.generic]:
    """Map a .npy file into memory, never unpickling; InputError in one line where it is missing or damaged."""
    try:
        return cast(NDArray[np.generic], np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # numpy's header is a Python literal: damaged ones fail in any of its tokenizer's ways
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: damaged, truncated or no .npy file of plain numbers ({reason})") from error


def _open_pixels(folder: Path, split: Split, record: SplitRecord) -> FixedPixels | VariedPixels:
    count, height, width, channels = record.shape
    if height is not None and width is not None:
        array = _checked(folder / f"{split}.npy", record, np.uint8, (count, height, width, channels))
        return FixedPixels(cast(NDArray[np.uint8], array))
    index = cast(NDArray[np.int64], _checked(folder / f"{split}-index.npy", record, np.int64, (count, 4)))
    names = sorted(name for name in record.files if name != f"{split}-index.npy")
    shards = [cast(NDArray[np.uint8], _checked(folder / name, record, np.uint8, None)) for name in names]
    # A damaged index would otherwise read another image's bytes, or none, in the middle of a training.
    sizes = np.array([shard.size for shard in shards] or [0])
    ends = index[:, 1] + index[:, 2] * index[:, 3] * channels
    shard = index[:, 0]
    if (index < 0).any() or (shard >= len(shards)).any() or (ends > sizes[np.minimum(shard, len(sizes) - 1)]).any():
        raise InputError(f"{folder / f'{split}-index.npy'}: damaged: points outside the shards; prepare the set again")
    return VariedPixels(shards, np.asarray(index), channels)


def _checked(
    path: Path, record: SplitRecord, dtype: type[np.generic], shape: tuple[int, ...] | None
) -> NDArray[np.generic]:
    if path.name not in record.files:
        raise InputError(f"{path.parent / MANIFEST}: does not list {path.name}: prepare the set again")
    array = load_array(path)
    if array.dtype != dtype or array.ndim != (1 if shape is None else len(shape)) or shape not in (None, array.shape):
        expected = f"{np.dtype(dtype).name} {shape or '(bytes,)'}"
        raise InputError(f"{path}: holds {array.dtype} {array.shape}, its manifest says {expected}: prepare it again")
    return array


def _recorded(known: ImageSet, split: Split) -> tuple[Path, Manifest, SplitRecord]:
    """Return a prepared set's folder, its manifest, and what that says of a split."""
    folder = data_root() / known.name
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{known.name} is not prepared in {data_root()}: {known.how_to_get()}")
    manifest = read_manifest(folder)
    if manifest.name != known.name:
        raise InputError(f"{folder / MANIFEST}: this is {manifest.name!r}, not {known.name!r}")
    _check_split(known.name, split, manifest.splits)
    return folder, manifest, manifest.splits[split]


def _check_split(name: str, split: str, splits: object) -> None:
    available = [str(entry) for entry in cast(Sequence[str], splits)]
    if split not in available:
        raise InputError(f"{name} has no split {split!r}; one of: {', '.join(available)}")


def _windows(
    images: Iterable[NDArray[np.uint8]], corners: NDArray[np.int64], size: int, channels: int
) -> NDArray[np.uint8]:
    result = np.empty((len(corners), size, size, channels), np.uint8)
    for target, image, (top, left) in zip(result, images, corners.tolist(), strict=True):
        target[:] = image[top : top + size, left : left + size]
    return result
