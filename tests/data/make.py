"""Small sources in the exact formats in which people have the real ones."""

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowbench.data import Images

Pixels = NDArray[np.uint8]


def random_images(count: int, side: int = 32, seed: int = 0, channels: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def photograph(height: int, width: int, seed: int = 0) -> Pixels:
    """A smooth image, as a photograph is: lossy formats change it little."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: Pixels, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def write_folder(folder: Path, images: Sequence[Pixels], form: str = "png") -> None:
    for number, image in enumerate(images):
        path = folder / f"class{number % 3}" / f"{number:04d}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(path)


def planes(images: Pixels) -> Pixels:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def python2_pickle(data: Pixels, labels: list[int]) -> bytes:
    """A batch as Python 2's cPickle wrote it (protocol 2, byte strings): the official CIFAR-10 archive's form."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    raw = np.ascontiguousarray(data).tobytes()
    shape = b"".join(b"J" + struct.pack("<i", side) for side in data.shape)
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    state = b"(K\x01" + shape + b"\x86" + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return (
        b"\x80\x02}("
        + text(b"data")
        + array
        + state
        + text(b"labels")
        + numbers
        + text(b"batch_label")
        + text(b"x")
        + b"u."
    )


def cifar_batches(images: Pixels, test: Pixels) -> dict[str, bytes]:
    parts = np.array_split(images, 5)
    files = {f"data_batch_{n}": python2_pickle(planes(part), [n] * len(part)) for n, part in enumerate(parts, 1)}
    files["test_batch"] = python2_pickle(planes(test), [0] * len(test))
    files["batches.meta"] = pickle.dumps({"label_names": ["airplane"]}, protocol=2)
    return files


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def same_set(images: Images, expected: Pixels) -> bool:
    """Whether both hold the same images, in any order."""
    return sorted(image.tobytes() for image in images.array) == sorted(image.tobytes() for image in expected)
