"""The images that ship with scikit-learn, read from its folder: to import it takes as long as torch does."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["digits", "photographs"]


def digits() -> NDArray[np.uint8]:
    """Return its 8x8 handwritten digits, uint8 (1797, 8, 8, 1), values 0 … 16."""
    file = _folder() / "data" / "digits.csv.gz"
    if file.is_file():
        rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        return np.ascontiguousarray(rows[:, :-1]).reshape(-1, 8, 8, 1)  # the last value is the digit
    from sklearn.datasets import load_digits  # where another version keeps it elsewhere

    images: NDArray[np.uint8] = load_digits().images.astype(np.uint8)[..., None]
    return images


def photographs() -> list[NDArray[np.uint8]]:
    """Return its sample photographs, uint8 (height, width, 3) each."""
    files = sorted((_folder() / "images").glob("*.jpg"))
    if files:
        return [np.asarray(Image.open(file)) for file in files]
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)


def _folder() -> Path:
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "datasets"
