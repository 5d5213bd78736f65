"""Sources that are arrays: .npy and .npz files, and the pickled batches of CIFAR-10 and downsampled ImageNet.

Nothing is ever unpickled into objects: a pickle is walked for the places of its arrays' bytes, which are then mapped.
"""

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from flowbench.data.readers.source import Payload, damaged
from flowbench.errors import InputError

__all__ = ["ArrayAt", "ArrayHere", "ArrayReader", "npy_images", "pickled_images", "planar_images", "read_pickle"]


@dataclass(frozen=True)
class ArrayAt:
    """A plain array inside a file: where its bytes begin, how they are laid out, and how images come out of them."""

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]
    planar: tuple[int, int, int] | None = None
    """(channels, height, width) of rows that hold one plane after another; None: rows are images already."""

    def __len__(self) -> int:
        return self.shape[0]

    def images(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Map images start … stop - 1 from the file, uint8 (k, height, width, channels)."""
        mapped = np.memmap(self.path, np.dtype(self.dtype), "r", self.offset, self.shape)[start:stop]
        if self.planar is None:
            return cast(NDArray[np.uint8], mapped)
        return cast(NDArray[np.uint8], mapped.reshape(-1, *self.planar).transpose(0, 2, 3, 1))


@dataclass(frozen=True)
class ArrayHere:
    """A plain array in memory, from an archive small enough: uint8 (n, height, width, channels)."""

    path: Path
    array: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.array)

    def images(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return images start … stop - 1."""
        return self.array[start:stop]


@dataclass(frozen=True)
class _ArrayPiece:
    parts: tuple[tuple[ArrayAt | ArrayHere, int, int, int], ...]
    """(array, start, stop, number of its first image): what is in memory is cut before it is sent away."""

    def __iter__(self) -> Iterator[tuple[str, Payload]]:
        for array, start, stop, first in self.parts:
            for number, image in enumerate(array.images(start, stop), first):
                yield f"{array.path.name}[{number}]", np.ascontiguousarray(image)


@dataclass(frozen=True)
class ArrayReader:
    """Images that lie in one or more arrays, one after another."""

    arrays: tuple[ArrayAt | ArrayHere, ...]
    files: Sequence[Path]

    def __len__(self) -> int:
        return sum(len(array) for array in self.arrays)

    @property
    def identity(self) -> str:
        """The shapes of the arrays."""
        return " ".join(str(len(array)) for array in self.arrays)

    def piece(self, start: int, stop: int) -> _ArrayPiece:
        """Return the images start … stop - 1."""
        parts: list[tuple[ArrayAt | ArrayHere, int, int, int]] = []
        for array in self.arrays:
            first, last = max(start, 0), min(stop, len(array))
            if first < last and isinstance(array, ArrayHere):
                parts.append((ArrayHere(array.path, array.images(first, last)), 0, last - first, first))
            elif first < last:
                parts.append((array, first, last, first))
            start, stop = start - len(array), stop - len(array)
        return _ArrayPiece(tuple(parts))


def npy_images(path: Path) -> ArrayAt:
    """Find the images in a .npy file, uint8 (n, height, width, channels); InputError if it holds anything else."""
    with _opened(path) as file:
        array = _npy_header(file, path)
    if len(array.shape) != 4 or array.dtype != "|u1":
        raise InputError(f"{path}: holds {array.dtype} {array.shape}, not uint8 (n, height, width, channels)")
    return array


def planar_images(path: Path, shape: tuple[int, int, int], key: str = "data") -> ArrayAt | ArrayHere:
    """Find the images in a pickled or .npz batch: uint8 (n, channels · height · width), plane after plane.

    Raises:
        InputError: no such array in the file, another shape, a damaged file, a pickle with other things in it.
    """
    if path.suffix in (".npz", ".npy"):
        if path.suffix == ".npz":
            array = _npz_member(path, key)
        else:
            with _opened(path) as file:
                array = _npy_header(file, path)
        return _planar(path, key, shape, array.dtype, array.shape, array.offset)
    with _opened(path) as file:
        return pickled_images(file, path, shape, key)


def pickled_images(file: BinaryIO, path: Path, shape: tuple[int, int, int], key: str = "data") -> ArrayAt | ArrayHere:
    """Find the images of a pickled batch: mapped where `file` is the file at `path`, else read into memory."""
    content = read_pickle(file, path)
    array = content.get(key, content.get(key.encode())) if isinstance(content, dict) else None
    if not isinstance(array, _Array) or not isinstance(array.content, _Bytes):
        raise InputError(f"{path}: no batch of images: a dictionary with the array {key!r} is expected")
    place = array.content
    if array.fortran or array.size != place.size:
        raise InputError(f"{path}: {key!r}: its shape {array.shape} and its {place.size} bytes disagree")
    if place.content is None and isinstance(file, io.BufferedReader) and file.name == str(path):
        return _planar(path, key, shape, array.dtype, array.shape, place.offset)
    file.seek(place.offset)
    found = _planar(path, key, shape, array.dtype, array.shape, 0)
    rows = np.frombuffer(place.content or file.read(place.size), np.uint8).reshape(-1, *shape)
    return ArrayHere(found.path, rows.transpose(0, 2, 3, 1))


def _planar(
    path: Path, key: str, image: tuple[int, int, int], dtype: str, shape: tuple[int, ...], offset: int
) -> ArrayAt:
    row = int(np.prod(image))
    if dtype != "|u1" or shape[1:] not in ((row,), image):
        raise InputError(f"{path}: {key!r} holds {dtype} {shape}, not uint8 (n, {row}): another set?")
    return ArrayAt(path, offset, dtype, (shape[0], row), image)


def read_pickle(file: BinaryIO, path: Path) -> Any:
    """Read plain containers, strings, numbers and numpy arrays from a pickle; arrays come back as `_Array`.

    Raises:
        InputError: the pickle is damaged, or names anything else (which pickle would import and call).
    """
    try:
        return _Walker(file).load()
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: refused: {' '.join(repr(str(error))[1:-1].split())[:200]}") from error
    except Exception as error:
        # Damaged opcodes end in many kinds of errors; whatever they are, this is no file of batches.
        raise damaged(path, "a pickle of arrays", type(error).__name__) from error


def _npz_member(path: Path, key: str) -> ArrayAt:
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{key}.npy")
            if info.compress_type != zipfile.ZIP_STORED:
                raise InputError(f"{path}: compressed: its arrays cannot be mapped")
            with path.open("rb") as file:
                # The local header repeats the name and has an extra field of its own length.
                file.seek(info.header_offset + 26)
                lengths = np.frombuffer(file.read(4), "<u2")
                file.seek(info.header_offset + 30 + int(lengths.sum()))
                return _npy_header(file, path)
    except KeyError as error:
        raise InputError(f"{path}: has no array {key!r}: another set?") from error
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise damaged(path, "an .npz file", error) from error


def _npy_header(file: BinaryIO, path: Path) -> ArrayAt:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as error:  # numpy's header is a Python literal: damaged ones fail in any of its tokenizer's ways
        raise damaged(path, "an .npy array", error) from error
    offset = file.tell()
    if fortran or dtype.hasobject or offset + int(np.prod(shape)) * dtype.itemsize > path.stat().st_size:
        raise InputError(f"{path}: truncated, or no plain array in C order")
    return ArrayAt(path, offset, dtype.str, shape)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class _Bytes:
    """A long run of bytes in a pickle, left where it is (or decoded, where the pickle holds it as text)."""

    offset: int
    size: int
    content: bytes | None = None


class _Array:
    """What a pickled ndarray says of itself; `__setstate__` is called by the walk, nothing else is."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.dtype = ""
        self.fortran = False
        self.content: object = None

    @property
    def size(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.shape, self.fortran = tuple(int(side) for side in shape), bool(fortran)
        self.dtype, self.content = dtype.name, content


class _Dtype:
    def __init__(self, name: str, *_: object) -> None:
        # Only plain numbers: no objects, no fields.
        if not isinstance(name, str) or name.lstrip("|<>=") not in ("u1", "i1", "i2", "i4", "i8", "f4", "f8", "b1"):
            raise pickle.UnpicklingError(f"an array of {name!r}")
        self.name = np.dtype(name).str

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment: the name has what matters."""


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(content: object, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order != "C", content))
    return array


def _scalar(*_: object) -> None:
    return None


def _latin1(text: object, encoding: str) -> object:
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise pickle.UnpicklingError(f"_codecs.encode({encoding!r})")
    content = text.encode("latin-1")
    # Long ones are an array's, short ones keys and names.
    return content if len(content) < _SHORT else _Bytes(0, len(content), content)


_ALLOWED: dict[tuple[str, str], Callable[..., object] | type] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _latin1,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _from_buffer


# The pure-Python unpickler: its opcodes can be replaced, so that gigabytes of pixels are skipped, not read.
_PurePython = cast(Any, pickle)._Unpickler
_SHORT = 1024


class _Walker(_PurePython):  # type: ignore[misc, valid-type]
    """Unpickler of plain containers and arrays, which leaves long byte strings in the file."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PurePython.dispatch)

    def __init__(self, file: BinaryIO) -> None:
        # Python 2's byte strings (labels, file names) become text; those of arrays are taken before decoding.
        super().__init__(file, encoding="latin1")
        self._file = file

    def find_class(self, module: str, name: str) -> object:
        """Refuse everything but numpy's arrays."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"the pickle names {module}.{name}; only arrays and plain containers are read")
        return _ALLOWED[module, name]

    def get_extension(self, code: int) -> None:
        """Refuse extension codes."""
        raise pickle.UnpicklingError(f"the pickle names extension {code}")

    def persistent_load(self, pid: object) -> None:
        """Refuse persistent references."""
        raise pickle.UnpicklingError(f"the pickle refers to {pid!r} outside itself")

    def _skip(self, size: int) -> None:
        frame = self._unframer.current_frame
        ahead = 0 if frame is None else len(frame.getbuffer()) - frame.tell()
        if size < _SHORT or 0 < ahead < size:
            # A frame may end where long bytes begin, but never inside of them.
            self.append(self.read(size))
            return
        offset = self._file.tell() - ahead
        if ahead:
            frame.seek(size, io.SEEK_CUR)
        elif self._file.seek(0, io.SEEK_END) < offset + size:
            raise EOFError
        else:
            self._file.seek(offset + size)
        self.append(_Bytes(offset, size))


def _long(opcode: bytes, width: int) -> None:
    def load(walker: _Walker) -> None:
        walker._skip(int.from_bytes(walker.read(width), "little"))

    _Walker.dispatch[opcode[0]] = load


_long(pickle.BINSTRING, 4)
_long(pickle.BINBYTES, 4)
_long(pickle.BINBYTES8, 8)
_long(pickle.BYTEARRAY8, 8)
