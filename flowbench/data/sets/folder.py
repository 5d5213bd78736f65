"""A folder of one's own images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowbench.data.file_readers import FolderReader
from flowbench.data.image_set import ImageSet, Options, Split
from flowbench.data.pictures import ShortSide, decode
from flowbench.data.places import equal_images, folder_images
from flowbench.data.readers import BrokenImageError, SplitSource
from flowbench.errors import InputError
from flowbench.registry import image_sets

__all__ = ["ImageFolder"]

SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageSet):
    """Any folder of images: `train/` with `test/` or `validation/`, or all together, a random fifth held out.

    Without `--size` the images are taken as they are and must have one size; with it, the shorter side is resized to
    that many pixels, and square crops are cut when they are fed (`data.crop`).
    """

    def find(self, source: Path, options: Options) -> dict[Split, SplitSource]:
        """Find the splits, or make them."""
        if not source.is_dir():
            raise self.not_found(source)
        train = folder_images(source / "train")
        readers: dict[Split, FolderReader] = {}
        if train is not None:
            readers["train"] = train
            for split, names in (("validation", ("validation", "valid", "val")), ("test", ("test",))):
                found = [reader for name in names if (reader := folder_images(source / name)) is not None]
                if found:
                    readers[split] = found[0]  # type: ignore[index]
        if len(readers) < 2:
            readers = _held_out(source, self)
        channels = _first(readers["train"])[2]
        if options.size is None:
            shape = _first(readers["train"])
            return {split: equal_images(reader, shape, "folder of images") for split, reader in readers.items()}
        return {split: _resized(reader, options.size, channels) for split, reader in readers.items()}


def _held_out(source: Path, known: ImageSet) -> dict[Split, FolderReader]:
    every = folder_images(source)
    if every is None:
        raise known.not_found(source)
    count = len(every)
    if count < 5:
        raise InputError(f"--source {source}: {count} images are too few to hold a fifth out for test")
    order = np.random.Generator(np.random.Philox(key=SPLIT_SEED)).permutation(count)
    cut = count // 5

    def part(chosen: np.ndarray[tuple[int], np.dtype[np.int64]]) -> FolderReader:
        return FolderReader(source, tuple(every.names[index] for index in sorted(chosen.tolist())))

    return {"train": part(order[cut:]), "test": part(order[:cut])}


def _first(reader: FolderReader) -> tuple[int, int, int]:
    """Return (height, width, channels) of the first image that can be read: the others must agree."""
    for name, payload in reader.piece(0, len(reader)):
        try:
            image = decode(payload)
        except BrokenImageError:
            # Preparation meets it again, and says so or leaves it out as it was told.
            continue
        channels = {"L": 1, "RGB": 3}.get(image.mode)
        if channels is None:
            raise InputError(f"{name}: mode {image.mode}; only RGB and grey (L) images are taken")
        return image.height, image.width, channels
    raise InputError(f"{reader.root}: no image that can be read")


def _resized(reader: FolderReader, size: int, channels: int) -> SplitSource:
    return SplitSource(
        reader=reader,
        transform=ShortSide(size, channels),
        shape=None,
        channels=channels,
        estimate=size * size * channels * 2,
        format="folder of images",
        preprocessing={"short_side": size, "resample": "antialiased bilinear", "crop": "square, when fed"},
    )


image_sets.register("folder")(
    ImageFolder(
        name="folder",
        title="a folder of your own images",
        shape=None,
        report_split="test",
        counts={},
        published="your own disk",
        licence="your own",
        citation="",
        download_bytes=0,
        disk_bytes=0,
        sources="a folder with images in it, or with train/ and test/",
    )
)
