"""Downsampled ImageNet, twice: of van den Oord et al. (the papers' one) and of Chrabaszcz et al.

Likelihoods on the two differ (they are resampled differently), so each refuses the other's images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flowbench.config.registry import image_sets
from flowbench.data.image_set import ImageSet, Options, Split
from flowbench.data.preparing.places import equal_images, places
from flowbench.data.preparing.zipped import mappable, unzipped
from flowbench.data.readers.arrays import ArrayReader, planar_images
from flowbench.data.readers.files import tar_images
from flowbench.data.readers.source import Reader, SplitSource
from flowbench.errors import InputError

__all__ = ["ChrabaszczImageNet", "OordImageNet"]

OORD_COUNTS: dict[Split, int] = {"train": 1_281_149, "validation": 49_999}
CHRABASZCZ_COUNTS: dict[Split, int] = {"train": 1_281_167, "validation": 50_000}
TERMS = "ImageNet's terms: non-commercial research and education; registration at image-net.org"


def _refuse(name: str, counts: Mapping[Split, int], other: Mapping[Split, int], whose: str, instead: str) -> None:
    for split, count in counts.items():
        if other.get(split) == count:
            raise InputError(
                f"{name}: {count:,} {split} images are those of {whose}, whose likelihoods differ: prepare {instead}"
            )


@dataclass(frozen=True, kw_only=True)
class OordImageNet(ImageSet):
    """PNGs in one tar per split, as van den Oord et al. 2016 (Pixel Recurrent Neural Networks) published them."""

    side: int

    def find(self, source: Path, options: Options) -> dict[Split, SplitSource]:
        """Find the pair of tars."""
        files: dict[Split, str] = {
            "train": f"train_{self.side}x{self.side}.tar",
            "validation": f"valid_{self.side}x{self.side}.tar",
        }
        folder = source.parent if source.name in files.values() else source
        for place in places(folder, [self.name]):
            if all((place / name).is_file() for name in files.values()):
                shape = (self.side, self.side, 3)
                return {
                    split: equal_images(tar_images(place / name), shape, "tars of PNGs")
                    for split, name in files.items()
                }
        raise self.not_found(source)

    def refuse_variant(self, counts: Mapping[Split, int]) -> None:
        """Refuse the images of Chrabaszcz et al."""
        instead = f"{self.name}-chrabaszcz"
        _refuse(self.name, counts, CHRABASZCZ_COUNTS, "the downsampled ImageNet of Chrabaszcz et al.", instead)


@dataclass(frozen=True, kw_only=True)
class ChrabaszczImageNet(ImageSet):
    """Batches, pickled or .npz, as Chrabaszcz et al. 2017 published them; their zips too."""

    side: int

    def find(self, source: Path, options: Options) -> dict[Split, SplitSource]:
        """Find ten training batches and the validation batch."""
        names: dict[Split, list[str]] = {
            "train": [f"train_data_batch_{number}" for number in range(1, 11)],
            "validation": ["val_data"],
        }
        wanted = [name for split in names.values() for name in split]
        if not source.exists():
            raise self.not_found(source)
        for place in places(source.parent if source.is_file() else source, [self.name, f"imagenet{self.side}"]):
            with_suffix = {name: _existing(place, name) for name in wanted}
            batches = {name: path for name, path in with_suffix.items() if path is not None}
            zips = sorted(place.glob(f"?magenet{self.side}*.zip"))
            if len(batches) < len(wanted) and zips:
                batches |= unzipped(zips, [name for name in wanted if name not in batches], self.name)
            if not batches:
                continue
            missing = [name for name in wanted if name not in batches]
            if missing:
                raise InputError(f"{place}: {missing[0]} is missing (also looked for {missing[0]}.npz and in zips)")
            return {split: self._split([batches[name] for name in of]) for split, of in names.items()}
        raise self.not_found(source)

    def refuse_variant(self, counts: Mapping[Split, int]) -> None:
        """Refuse the images of van den Oord et al."""
        instead = self.name.removesuffix("-chrabaszcz")
        _refuse(self.name, counts, OORD_COUNTS, "the small ImageNet of van den Oord et al.", instead)

    def _split(self, files: list[Path]) -> SplitSource:
        plain = [mappable(path, "data", self.name) for path in files]
        arrays = tuple(planar_images(path, (3, self.side, self.side)) for path in plain)
        reader: Reader = ArrayReader(arrays, files)
        return equal_images(reader, (self.side, self.side, 3), "batches")


def _existing(place: Path, name: str) -> Path | None:
    for path in (place / name, place / f"{name}.npz"):
        if path.is_file():
            return path
    return None


for side, gigabytes, chrabaszcz_gigabytes in ((32, 4.3, 3.7), (64, 12.6, 14.1)):
    image_sets.register(f"imagenet{side}")(
        OordImageNet(
            name=f"imagenet{side}",
            title=f"ImageNet {side}x{side}, small ImageNet of van den Oord et al. (the papers' one)",
            side=side,
            shape=(3, side, side),
            report_split="validation",
            counts=OORD_COUNTS,
            published="image-net.org (registration; the files of 2016 are no longer offered there)",
            licence=TERMS,
            citation="van den Oord et al. 2016, Pixel Recurrent Neural Networks; Russakovsky et al. 2015, ImageNet",
            download_bytes=int(gigabytes * 1e9),
            disk_bytes=sum(OORD_COUNTS.values()) * side * side * 3,
            sources=f"train_{side}x{side}.tar + valid_{side}x{side}.tar",
        )
    )
    image_sets.register(f"imagenet{side}-chrabaszcz")(
        ChrabaszczImageNet(
            name=f"imagenet{side}-chrabaszcz",
            title=f"ImageNet {side}x{side}, downsampled by Chrabaszcz et al. (not the papers' one)",
            side=side,
            shape=(3, side, side),
            report_split="validation",
            counts=CHRABASZCZ_COUNTS,
            published="https://image-net.org/download-images (registration)",
            licence=TERMS,
            citation="Chrabaszcz et al. 2017, A Downsampled Variant of ImageNet as an Alternative to CIFAR",
            download_bytes=int(chrabaszcz_gigabytes * 1e9),
            disk_bytes=sum(CHRABASZCZ_COUNTS.values()) * side * side * 3,
            sources="train_data_batch_1 … 10 + val_data, pickled or .npz, or their zips",
        )
    )
