"""LSUN: scenes by category, hundreds of thousands to millions of photographs (Yu et al. 2015)."""

from dataclasses import dataclass
from pathlib import Path

from flowbench.config.registry import image_sets
from flowbench.data.image_set import ImageSet, Options, Split
from flowbench.data.preparing.pictures import PyramidReduce, ShortSide
from flowbench.data.preparing.places import folder_images, places
from flowbench.data.readers.files import FolderReader
from flowbench.data.readers.source import Reader, SplitSource

__all__ = ["Lsun"]

SHORT_SIDE = 96
# Photographs are about 4:3.
ESTIMATE = SHORT_SIDE * SHORT_SIDE * 4 // 3 * 3
NAMES: dict[Split, str] = {"train": "train", "validation": "val"}


@dataclass(frozen=True, kw_only=True)
class Lsun(ImageSet):
    """One category: LMDBs or folders of images, shrunk to 96 pixels on the shorter side, cropped when they are fed.

    `pyramid` is the way of the formatter that was released with Real NVP; its loader then cuts random 64x64 windows,
    which it mirrors at random. `bilinear` is how flowbench prepared LSUN before: Pillow's, antialiased, rounded.
    """

    category: str

    def find(self, source: Path, options: Options) -> dict[Split, SplitSource]:
        """Find training and validation images."""
        folder = source.parent if source.name.startswith(f"{self.category}_") else source
        for place in places(folder, ["lsun", self.category, self.name]):
            found = {split: self._reader(place, short) for split, short in NAMES.items()}
            readers = {split: reader for split, reader in found.items() if reader is not None}
            if len(readers) == len(NAMES):
                resample = options.resample or self.resamples[0]
                return {split: _split(reader, resample) for split, reader in readers.items()}
        raise self.not_found(source)

    def _reader(self, place: Path, short: str) -> Reader | None:
        database = place / f"{self.category}_{short}_lmdb"
        if (database / "data.mdb").is_file():
            # Imported here: the only set that needs lmdb.
            from flowbench.data.readers.lmdb import lmdb_images

            return lmdb_images(database)
        for name in (f"{self.category}_{short}", short):
            if (images := folder_images(place / name)) is not None:
                return images
        return None


def _split(reader: Reader, resample: str) -> SplitSource:
    return SplitSource(
        reader=reader,
        transform=PyramidReduce(SHORT_SIDE) if resample == "pyramid" else ShortSide(SHORT_SIDE, grey=True),
        shape=None,
        channels=3,
        estimate=ESTIMATE,
        format="folders of images" if isinstance(reader, FolderReader) else "LMDB",
        preprocessing={"short_side": SHORT_SIDE, "resample": resample, "crop": "64x64, when fed"},
    )


for category, train, gigabytes in (
    ("bedroom", 3_033_042, 45.9),
    ("tower", 708_264, 12.0),
    ("church_outdoor", 126_227, 2.5),
):
    image_sets.register(f"lsun-{category}")(
        Lsun(
            name=f"lsun-{category}",
            title=f"LSUN {category.replace('_', ' ')}: short side 96 pixels, random 64x64 crops",
            category=category,
            shape=(3, 64, 64),
            report_split="validation",
            counts={"train": train, "validation": 300},
            numerics=2,  # 2: pyramid; before, and wherever a manifest names no way, bilinear
            published="https://www.yf.io/p/lsun (its script downloads the zips; unzip them first)",
            licence="none stated; for research",
            citation="Yu et al. 2015, LSUN: Construction of a Large-scale Image Dataset using Deep Learning",
            download_bytes=int(gigabytes * 1e9),
            disk_bytes=train * ESTIMATE,
            sources=f"{category}_train_lmdb/ + {category}_val_lmdb/, or folders {category}_train/ + {category}_val/",
            resamples=("pyramid", "bilinear"),
            unnamed_resample="bilinear",
        )
    )
