"""Images from elsewhere, in the form of a model's own: other data sets, and what always comes with scikit-learn."""

import numpy as np
from numpy.typing import NDArray

from flowbench.config.registry import image_sets
from flowbench.data import data_root, open_split
from flowbench.data.manifest import MANIFEST
from flowbench.data.scikit_learn import photographs
from flowbench.errors import FlowbenchError

__all__ = ["outsiders"]

SEED = 0x6F7574


def outsiders(shape: tuple[int, int, int], levels: int, *, besides: str, n: int) -> dict[str, NDArray[np.uint8]]:
    """Return sets of images that a model did not train on, by name.

    These are the prepared data sets with such images, windows of scikit-learn's two photographs, and its digits,
    enlarged, where they fit.

    Args:
        shape: (channels, height, width) of the model's images; of other than 1 or 3 channels there are none.
        levels: its grey levels.
        besides: the model's own data set.
        n: images of each set, or all that there are.

    Returns:
        uint8 (≤ n, height, width, channels), values below `levels`.
    """
    if shape[0] not in (1, 3):
        return {}
    found = {
        name: images
        for name in image_sets
        if name != besides and (images := _prepared(name, shape, levels, n)) is not None
    }
    found["photographs"] = _photographs(shape, levels, n)
    _, height, width = shape
    if besides != "digits" and height == width and height % 8 == 0:
        found["digits, enlarged"] = _digits(shape, levels, n)
    return found


def _prepared(name: str, shape: tuple[int, int, int], levels: int, n: int) -> NDArray[np.uint8] | None:
    known = image_sets[name]
    if (
        known.shape != shape
        or known.levels != levels
        or not (known.embedded or (data_root() / name / MANIFEST).is_file())
    ):
        return None
    try:
        images = open_split(name, known.report_split)
    except FlowbenchError:
        # Damaged files of another set are no reason to miss this picture.
        return None
    return images.subset(np.arange(min(n, len(images)))).array


def _photographs(shape: tuple[int, int, int], levels: int, n: int) -> NDArray[np.uint8]:
    channels, height, width = shape
    taken = photographs()
    places = np.random.Generator(np.random.Philox(key=SEED))
    windows = np.empty((n, height, width, 3))
    for number in range(n):
        photograph = taken[number % len(taken)]
        top, left = (
            int(places.integers(side - size + 1)) for side, size in zip(photograph.shape, (height, width), strict=False)
        )
        windows[number] = photograph[top : top + height, left : left + width]
    colored = windows if channels == 3 else windows.mean(axis=3, keepdims=True)
    return np.floor(colored / 256 * levels).astype(np.uint8)


def _digits(shape: tuple[int, int, int], levels: int, n: int) -> NDArray[np.uint8]:
    channels, height, _ = shape
    small = open_split("digits", "test").array[:n]
    large = small.repeat(height // 8, axis=1).repeat(height // 8, axis=2).repeat(channels, axis=3)
    return np.rint(large / 16 * (levels - 1)).astype(np.uint8)
