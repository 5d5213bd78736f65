"""CelebA: 202,599 faces, aligned and cropped (Liu et al. 2015)."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from flowbench.config.registry import image_sets
from flowbench.data.image_set import ImageSet, Options, Split
from flowbench.data.preparing.pictures import CropAndResize
from flowbench.data.preparing.places import places
from flowbench.data.readers.files import FolderReader, ZipReader, zip_images
from flowbench.data.readers.picture_files import image_names
from flowbench.data.readers.source import SplitSource, damaged
from flowbench.errors import InputError

__all__ = ["CelebA"]

# As its publisher has it, and as Kaggle does, under a header.
PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")
HEADER = ["image_id", "partition"]
FOLDER = "img_align_celeba"
PARTS = ("Img", "Eval")
SPLITS: dict[str, Split] = {"0": "train", "1": "validation", "2": "test"}
MAX_PARTITION_BYTES = 2**26
HEIGHT, WIDTH = 218, 178
# The authors' window: rows 40 … 187 and columns 15 … 162 (Dinh et al.'s code; Larsen et al. 2016 before them).
TOP, LEFT, SIDE = 40, 15, 148
SIZE = 64


@dataclass(frozen=True, kw_only=True)
class CelebA(ImageSet):
    """Aligned faces in a folder or zip, with the file that says to which split each belongs."""

    def find(self, source: Path, options: Options) -> dict[Split, SplitSource]:
        """Find images and partition, and put each image into its split."""
        start = source.parent if source.is_file() or source.name == FOLDER else source
        # Img and Eval: the folders of the publisher's drive.
        start = start.parent if start.name == "Img" else start
        around = places(start, ["celeba", FOLDER, *(f"{parent}{part}" for parent in ("", "celeba/") for part in PARTS)])
        images = next((found for place in around if (found := _images(place)) is not None), None)
        files = [place / name for name in PARTITIONS for place in around]
        partition = next((file for file in files if file.is_file()), None)
        if images is None or partition is None:
            raise self.not_found(source)
        by_file = {PurePosixPath(name).name: name for name in images.names}
        names: dict[Split, list[str]] = {"train": [], "validation": [], "test": []}
        for image, split in _partition(partition).items():
            if image not in by_file:
                raise InputError(f"{partition}: {image} is not among the {len(by_file):,} images: an incomplete copy?")
            names[split].append(by_file[image])
        return {split: self._split(images, tuple(of), options) for split, of in names.items()}

    def _split(self, images: FolderReader | ZipReader, names: tuple[str, ...], options: Options) -> SplitSource:
        resample = options.resample or self.resamples[0]
        return SplitSource(
            reader=replace(images, names=names),
            transform=CropAndResize((HEIGHT, WIDTH), TOP, LEFT, SIDE, SIZE, resample),
            shape=(SIZE, SIZE, 3),
            channels=3,
            estimate=SIZE * SIZE * 3,
            format="zip" if isinstance(images, ZipReader) else "folder",
            preprocessing={
                "crop": f"rows {TOP} to {TOP + SIDE - 1}, columns {LEFT} to {LEFT + SIDE - 1}",
                "size": SIZE,
                "resample": resample,
            },
        )


def _images(place: Path) -> FolderReader | ZipReader | None:
    archive = place / f"{FOLDER}.zip"
    # Unpacking the published zip nests the folder in one of its own name.
    for folder in (place / FOLDER / FOLDER, place / FOLDER):
        if folder.is_dir() and (names := image_names(folder)):
            return FolderReader(folder, names)
    return zip_images(archive) if archive.is_file() else None


def _partition(path: Path) -> dict[str, Split]:
    try:
        if path.stat().st_size > MAX_PARTITION_BYTES:
            raise InputError(f"{path}: larger than {MAX_PARTITION_BYTES:,} bytes: not a partition file")
        # utf-8-sig: spreadsheets begin a file with a mark.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text") from error
    found: dict[str, Split] = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.replace(",", " ").replace('"', " ").split()
        if not fields or (number == 1 and fields == HEADER):
            continue
        if len(fields) != 2 or fields[1] not in SPLITS:
            reason = f"line {number}: {line[:60]!r} is not an image and 0, 1 or 2"
            raise damaged(path, "CelebA's partition file", reason)
        if fields[0] in found:
            raise damaged(path, "CelebA's partition file", f"line {number}: {fields[0]} stands twice")
        found[fields[0]] = SPLITS[fields[1]]
    return found


image_sets.register("celeba")(
    CelebA(
        name="celeba",
        title="CelebA, aligned faces, cropped to 148x148 and resized to 64x64",
        shape=(3, SIZE, SIZE),
        report_split="validation",
        counts={"train": 162_770, "validation": 19_867, "test": 19_962},
        published="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (agree to its terms, then download by hand)",
        licence="non-commercial research only; see the publisher's agreement",
        citation="Liu et al. 2015, Deep Learning Face Attributes in the Wild, ICCV",
        download_bytes=1_443_490_838,
        disk_bytes=202_599 * SIZE * SIZE * 3,
        sources="img_align_celeba/ or img_align_celeba.zip, with list_eval_partition.txt (or Kaggle's .csv) beside it",
        resamples=("tf1-bilinear", "antialias"),
    )
)
