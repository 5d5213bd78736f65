"""Where a set may lie in what `--source` names: the folder itself, or its parent."""

from collections.abc import Iterable
from pathlib import Path

from flowbench.data.preparing.pictures import Exactly
from flowbench.data.readers.files import FolderReader
from flowbench.data.readers.picture_files import image_names
from flowbench.data.readers.source import Reader, SplitSource

__all__ = ["equal_images", "folder_images", "places"]


def places(source: Path, names: Iterable[str]) -> list[Path]:
    """Return `source` and the folders of these names in it, those that exist, for a search in this order."""
    return [place for place in (source, *(source / name for name in names)) if place.exists()]


def folder_images(folder: Path) -> FolderReader | None:
    """Return the images anywhere under `folder`; None if there are none."""
    names = image_names(folder) if folder.is_dir() else ()
    return FolderReader(folder, names) if names else None


def equal_images(reader: Reader, shape: tuple[int, int, int], form: str) -> SplitSource:
    """Return a split of images that already have the (height, width, channels) that they are meant to have."""
    height, width, channels = shape
    return SplitSource(
        reader=reader,
        transform=Exactly(shape),
        shape=shape,
        channels=channels,
        estimate=height * width * channels,
        format=form,
        preprocessing={"resize": "none: images as published"},
    )
