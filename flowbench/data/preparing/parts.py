"""The parts of a folder of images, by the names of its sub-folders: nothing that reads like a part is pooled."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flowbench.data.image_set import Split
from flowbench.data.readers.picture_files import has_pictures, image_names, pictures
from flowbench.errors import InputError

__all__ = ["USUAL", "Parts", "find_parts"]

USUAL: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "holdout"),
}
SPLITS: dict[str, Split] = {name: split for split, names in USUAL.items() for name in names}
NAMES = "; ".join(", ".join(names) for names in USUAL.values())
# A word within a name: trainA, TestSet, train2017, test_images.
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
LIKE_A_PART = re.compile(rf"({'|'.join(SPLITS)}|evaluation|heldout|trn|tst)(s|set|sets|data|images|imgs)?")
MOST_NAMED = 8
OUTSIDE = "beside the parts"


@dataclass(frozen=True)
class Parts:
    """Where the images of each part lie; `train` alone: all images, of which none is set apart yet."""

    folders: dict[Split, Path]
    outside: tuple[tuple[str, str], ...] = ()
    """(name, kind) of each picture that lies in none of them."""


def find_parts(source: Path) -> Parts:
    """Find the parts in `source`, by the usual names in any case; class folders are pooled.

    Raises:
        InputError: two names for one part, only one part among several sub-folders, no training part, an empty part, or
            a name that reads like a part where all would be pooled: test images must never be trained on by a slip.
    """
    root = source
    while True:
        folders, single = _content(root)
        # A folder that holds one folder and nothing else is that folder.
        if single or len(folders) != 1 or folders[0].is_symlink() or _part(folders[0]) not in (None, "train"):
            break
        root = folders[0]
    found: dict[Split, Path] = {}
    for folder in folders:
        part = _part(folder)
        if part is None:
            continue
        if part in found:
            raise InputError(
                f"--source {root}: {found[part].name}/ and {folder.name}/ are two names for one part, {part}"
            )
        found[part] = folder
    named = _named([f"{folder.name}/" for folder in folders] + single)
    if len(found) == 1 and len(folders) + bool(single) > 1:
        raise InputError(
            f"--source {root}: of {named} only {next(iter(found.values())).name}/ is a part by its name: "
            f"rename what is another part (usual names: {NAMES}), and move what is none elsewhere"
        )
    if found and "train" not in found:
        raise InputError(f"--source {root}: has {named}, but no part to train on, named {' or '.join(USUAL['train'])}")
    if len(found) < 2:
        pool = found.get("train", root)
        _refuse_likeness(pool)
        return Parts({"train": pool})
    for folder in found.values():
        if not has_pictures(folder):
            raise InputError(f"{folder}: no images in it: remove it if that is no part")
    beside = [folder for folder in folders if folder not in found.values()]
    names = [f"{folder.name}/{name}" for folder in beside for name in pictures(folder)] + single
    return Parts({part: found[part] for part in USUAL if part in found}, tuple((name, OUTSIDE) for name in names))


def _content(root: Path) -> tuple[list[Path], list[str]]:
    """Return the sub-folders that are parts or have pictures, and the names of pictures directly in `root`."""
    try:
        entries = sorted(path for path in root.iterdir() if not path.name.startswith(".") and path.name != "__MACOSX")
    except OSError as error:
        raise InputError(f"{root}: cannot be read: {error.strerror}") from error
    folders = [path for path in entries if path.is_dir() and (_part(path) is not None or has_pictures(path))]
    return folders, sorted(name for name in pictures(root) if "/" not in name and not (root / name).is_dir())


def _part(folder: Path) -> Split | None:
    return SPLITS.get(folder.name.casefold())


def _refuse_likeness(pool: Path) -> None:
    names = {part for name in image_names(pool) for part in PurePosixPath(name).parent.parts}
    alike = sorted(name for name in names if _like(name))
    if alike:
        raise InputError(
            f"--source {pool}: {_named([f'{name}/' for name in alike])} in it read like parts of a set, and all of it "
            f"would be pooled: give the folder right above the parts, by their usual names ({NAMES}), or rename them"
        )


def _like(name: str) -> bool:
    words = ["".join(filter(str.isalpha, name)), *WORD.findall(name)]
    return any(LIKE_A_PART.fullmatch(word.casefold()) for word in words)


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
