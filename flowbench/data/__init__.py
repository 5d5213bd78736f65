"""Data sets: obtained, prepared as the papers did, verified and opened; `flowbench.data.feed` feeds them to torch."""

from flowbench.data.catalogue import SetRow, SplitState, list_sets, prepare, progress_bar, verify
from flowbench.data.image_set import ImageSet, Split, Status, data_root
from flowbench.data.images import Images, open_images, open_split, reduce_levels, training_parts
from flowbench.data.series import SeriesSet, series_path

__all__ = [
    "ImageSet",
    "Images",
    "SeriesSet",
    "SetRow",
    "Split",
    "SplitState",
    "Status",
    "data_root",
    "list_sets",
    "open_images",
    "open_split",
    "prepare",
    "progress_bar",
    "reduce_levels",
    "series_path",
    "training_parts",
    "verify",
]
