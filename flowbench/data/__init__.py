"""Data sets, prepared ones opened; `preparing` obtains, prepares and verifies them, `feed` feeds them to torch."""

from flowbench.data.image_set import ImageSet, Split, Status, data_root
from flowbench.data.images import Images, check_split, open_images, open_split, reduce_levels, training_parts
from flowbench.data.series import SeriesSet, series_path

__all__ = [
    "ImageSet",
    "Images",
    "SeriesSet",
    "Split",
    "Status",
    "check_split",
    "data_root",
    "open_images",
    "open_split",
    "reduce_levels",
    "series_path",
    "training_parts",
]
