"""What lies in a prepared folder: `manifest.json`, and the fingerprints that recognise a set whatever its order."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from flowbench.errors import InputError

__all__ = [
    "MANIFEST",
    "Manifest",
    "Skipped",
    "SourceRecord",
    "SplitRecord",
    "array_sha256",
    "content_sha256",
    "file_sha256",
    "has_checksum",
    "image_digests",
    "read_manifest",
]

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# A manifest names files beside itself: nothing in it may lead elsewhere.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\.npy$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Skipped(_Record):
    """An image of the source that could not be used, under `--skip-broken`."""

    image: str
    reason: str


class SplitRecord(_Record):
    """One split: `shape` is (n, height, width, channels); height and width are None where images differ in size."""

    shape: tuple[NonNegativeInt, NonNegativeInt | None, NonNegativeInt | None, NonNegativeInt]
    files: dict[FileName, Sha256]
    content_sha256: Sha256
    skipped: list[Skipped] = []
    not_taken: dict[str, NonNegativeInt] = {}
    """Pictures that lay beside those that were read, by kind: of formats that are not taken, in no part."""
    also_in_train: NonNegativeInt = 0
    """Images of another split that are among the training images, value by value."""


class SourceRecord(_Record):
    """Where the images came from: the format, and SHA-256 by file (of a folder's images: one over all of them)."""

    format: str
    files: dict[str, Sha256]


class Manifest(_Record):
    """The whole `manifest.json` of a prepared set."""

    # `schema` is a method of pydantic's models: the field has another name than its key.
    version: Literal[1] = Field(default=1, alias="schema")
    name: str
    levels: Annotated[int, Field(ge=2, le=256)]
    splits: dict[Literal["train", "validation", "test"], SplitRecord]
    source: SourceRecord
    preprocessing: dict[str, Any]
    licence: str
    flowbench: str


def read_manifest(folder: Path) -> Manifest:
    """Read and validate `folder/manifest.json`; InputError in one line where it is damaged."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise InputError(f"{path}: larger than {MAX_MANIFEST_BYTES:,} bytes: not a manifest")
        return Manifest.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValidationError, ValueError, RecursionError) as error:
        reason = "not JSON"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise InputError(f"{path}: damaged ({reason}): prepare the set again") from error


def image_digests(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the SHA-256 of the bytes of each image (height, width, channels): (n, 32)."""
    digests = b"".join(hashlib.sha256(image.tobytes()).digest() for image in images)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def content_sha256(digests: NDArray[np.uint8]) -> str:
    """Return the SHA-256 over the sorted digests (n, 32): the same for the same images in any order."""
    # 'S32' sorts by unsigned bytes with zeros padded at the end: the order of the raw digests.
    ordered = np.sort(np.ascontiguousarray(digests).view("S32"), axis=0)
    return hashlib.sha256(ordered.view(np.uint8).data).hexdigest()


def array_sha256(array: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of an array's bytes, in their order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_checksum(path: Path, checksum: str) -> bool:
    """Say whether a file has this `md5:…`, `sha256:…` or `git:…` (SHA-1 of `blob <size>`, a zero byte, the content)."""
    kind, _, value = checksum.partition(":")
    if kind == "git":
        content = path.read_bytes()
        blob = b"blob %d\0" % len(content) + content
        return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == value
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() == value
