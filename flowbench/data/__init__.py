"""Data sets: obtained, prepared as the papers did, verified and opened; `flowbench.data.feed` feeds them to torch."""

from flowbench.data.image_set import ImageSet, Split, Status, data_root
from flowbench.data.images import Images, open_images, open_split, reduce_levels, training_parts

__all__ = [
    "ImageSet",
    "Images",
    "Split",
    "Status",
    "data_root",
    "open_images",
    "open_split",
    "reduce_levels",
    "training_parts",
]
