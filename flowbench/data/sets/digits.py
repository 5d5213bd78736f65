"""The digits that ship with scikit-learn: 1,797 images of 8×8, 17 grey levels; nothing to download."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowbench.config.registry import image_sets
from flowbench.data.image_set import ImageSet, Options, Split
from flowbench.data.readers.source import SplitSource
from flowbench.data.scikit_learn import digits
from flowbench.errors import InputError

__all__ = ["Digits"]

SPLIT_SEED = 0
TEST_IMAGES = 360


@dataclass(frozen=True, kw_only=True)
class Digits(ImageSet):
    """scikit-learn's copy of the UCI digits, a random fifth held out for test by a fixed permutation."""

    embedded = True

    def find(self, source: Path, options: Options) -> dict[Split, SplitSource]:
        """Refuse: there is nothing to prepare."""
        raise InputError(f"{self.name} comes with scikit-learn: it needs no preparation")

    def load(self, split: Split) -> NDArray[np.uint8]:
        """Return the images of a split, uint8 (n, 8, 8, 1), values 0 … 16."""
        images = _images()
        order = np.random.Generator(np.random.Philox(key=SPLIT_SEED)).permutation(len(images))
        chosen = order[:TEST_IMAGES] if split == "test" else order[TEST_IMAGES:]
        return np.ascontiguousarray(images[np.sort(chosen)])


_images = cache(digits)


image_sets.register("digits")(
    Digits(
        name="digits",
        title="scikit-learn's 8x8 handwritten digits, 17 grey levels",
        shape=(1, 8, 8),
        levels=17,
        report_split="test",
        counts={"train": 1437, "test": TEST_IMAGES},
        fingerprints={
            "train": "19b5f19a9d196a5bef3d15a49a09df3c364b267ea819028d6a2028dacf746807",
            "test": "ceef22393e9f3864a62cca77e7177f247e4c20387e6a9d30602b7f01f1aea9dd",
        },
        published="scikit-learn (sklearn.datasets.load_digits), from the UCI repository",
        licence="CC BY 4.0",
        citation="Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository",
        download_bytes=0,
        disk_bytes=0,
    )
)
