"""CIFAR-10: 50,000 + 10,000 colour images of 32×32 (Krizhevsky 2009)."""

import gzip
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from flowbench.config.registry import image_sets
from flowbench.data.image_set import Download, ImageSet, Options, Split
from flowbench.data.preparing.places import equal_images, folder_images, places
from flowbench.data.readers.arrays import ArrayAt, ArrayHere, ArrayReader, npy_images, pickled_images, planar_images
from flowbench.data.readers.files import bounded_tar
from flowbench.data.readers.source import Reader, SplitSource, damaged
from flowbench.errors import InputError

__all__ = ["Cifar10"]

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
BATCHES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
PLANES = (3, 32, 32)
SHAPE = (32, 32, 3)
MAX_MEMBER_BYTES = 2**26
MAX_UNPACKED_BYTES = 2**29
MAX_MEMBERS = 1000


@dataclass(frozen=True, kw_only=True)
class Cifar10(ImageSet):
    """CIFAR-10 from arrays, the official archive (packed or not) or folders of PNGs."""

    def find(self, source: Path, options: Options) -> dict[Split, SplitSource]:
        """Find train and test in any of the formats, the first that is there."""
        for place in places(
            source, ["cifar10", *(f"{parent}{name}" for parent in ("", "cifar10/") for name in (FOLDER, ARCHIVE))]
        ):
            found = self._npy(place) or self._batches(place) or self._archive(place) or self._folders(place)
            if found:
                form, readers = found
                return {split: equal_images(reader, SHAPE, form) for split, reader in readers.items()}
        raise self.not_found(source)

    def _npy(self, place: Path) -> tuple[str, dict[Split, Reader]] | None:
        files: dict[Split, Path] = {"train": place / "train.npy", "test": place / "test.npy"}
        if not all(path.is_file() for path in files.values()):
            return None
        return "npy", {split: ArrayReader((npy_images(path),), (path,)) for split, path in files.items()}

    def _batches(self, place: Path) -> tuple[str, dict[Split, Reader]] | None:
        if not (place / "data_batch_1").is_file():
            return None
        readers: dict[Split, Reader] = {}
        for split, names in BATCHES.items():
            files = [place / name for name in names]
            readers[split] = ArrayReader(tuple(planar_images(path, PLANES) for path in files), files)
        return "pickled batches", readers

    def _archive(self, place: Path) -> tuple[str, dict[Split, Reader]] | None:
        if not place.is_file() or not place.name.endswith((".tar.gz", ".tgz")):
            return None
        batches = _read_archive(place)
        missing = [name for names in BATCHES.values() for name in names if name not in batches]
        if missing:
            raise InputError(f"{place}: no {missing[0]} in it: not CIFAR-10's python archive, or truncated")
        readers: dict[Split, Reader] = {
            split: ArrayReader(tuple(batches[name] for name in names), (place,)) for split, names in BATCHES.items()
        }
        return "python archive", readers

    def _folders(self, place: Path) -> tuple[str, dict[Split, Reader]] | None:
        train, test = folder_images(place / "train"), folder_images(place / "test")
        return None if train is None or test is None else ("folders of images", {"train": train, "test": test})


def _read_archive(path: Path) -> dict[str, ArrayAt | ArrayHere]:
    # 180 MB in all: read into memory, each member within bounds, nothing written anywhere.
    wanted = {name for names in BATCHES.values() for name in names}
    found: dict[str, ArrayAt | ArrayHere] = {}
    try:
        with (
            gzip.open(path, "rb") as unpacked,
            bounded_tar(cast(IO[bytes], unpacked), path, MAX_MEMBER_BYTES, MAX_UNPACKED_BYTES) as archive,
        ):
            for number, member in enumerate(archive):
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                    raise InputError(f"{path}: {member.name!r}: a link, or leads outside the archive: refused")
                if member.size > MAX_MEMBER_BYTES or number > MAX_MEMBERS:
                    raise InputError(f"{path}: {member.name}: {member.size:,} bytes: refused as a decompression bomb")
                file = archive.extractfile(member) if member.isfile() and name.name in wanted else None
                if file is not None:
                    found[name.name] = pickled_images(file, path / member.name, PLANES)  # type: ignore[arg-type]
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise damaged(path, "CIFAR-10's python archive", error) from error
    return found


image_sets.register("cifar10")(
    Cifar10(
        name="cifar10",
        title="CIFAR-10: 32x32 colour photographs of ten classes",
        shape=(3, 32, 32),
        report_split="test",
        counts={"train": 50_000, "test": 10_000},
        fingerprints={
            "train": "6bebf6967ad9d2d12d9cf95f54164bd95a0954d3177f1285fa8dd3673671ca76",
            "test": "eb97bdfceb97fec3832a6abdbbf9f16340a510375c77ce1b32c45de1e6d88318",
        },
        published="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated; the authors ask for a citation",
        citation="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        download_bytes=170_498_071,
        disk_bytes=60_000 * 3072,
        sources="train.npy + test.npy, cifar-10-batches-py/, cifar-10-python.tar.gz, or train/ + test/ of PNGs",
        download=Download(
            url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            file=ARCHIVE,
            checksum="md5:c58f30108f718f92721af3b95e74349a",
        ),
    )
)
