"""Images laid out in grids, enlarged by whole factors: each pixel of an image is a square of one colour."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowbench.figures.kinds import NotDrawableError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["image_grid", "rows_height", "show_grid", "show_rows"]

MIN_SIDE = 48
"""Pixels that an image takes in a grid at the least: 8 × 8 digits are enlarged six times."""


def image_grid(images: Tensor, columns: int, levels: int, gap: int = 1) -> NDArray[np.uint8]:
    """Lay images out in rows on white and enlarge them by a whole factor, each pixel a square.

    Args:
        images: uint8 (n, channels, height, width), channels 1 (grey) or 3 (RGB), values below `levels`.
        columns: images in a row.
        levels: grey levels; levels − 1 becomes 255.
        gap: pixels between images, enlarged with them.

    Returns:
        uint8 RGB, (height, width, 3).

    Raises:
        NotDrawableError: another number of channels.
    """
    n, channels, height, width = images.shape
    if channels not in (1, 3):
        raise NotDrawableError(f"pictures are of 1 or 3 channels: these images have {channels}")
    scale = -(-MIN_SIDE // min(height, width)) if min(height, width) < MIN_SIDE else 1
    shown = np.rint(images.permute(0, 2, 3, 1).numpy() * (255 / (levels - 1))).astype(np.uint8)
    shown = np.broadcast_to(shown, (n, height, width, 3)) if channels == 1 else shown
    rows = -(-n // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, image in enumerate(shown):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid.repeat(scale, axis=0).repeat(scale, axis=1)


def show_grid(axes: "Axes", images: Tensor, columns: int, levels: int) -> None:
    """Show a grid of images and nothing else in `axes`."""
    axes.imshow(image_grid(images, columns, levels), interpolation="nearest")
    axes.set_axis_off()


def rows_height(rows: int, columns: int) -> float:
    """Return the height in inches of a figure 9 inches wide for `show_rows` under a title."""
    return 0.6 + 7.6 * rows / columns


def show_rows(axes: "Axes", rows: Sequence[Tensor], labels: Sequence[str], levels: int) -> None:
    """Show rows of equally many images below each other, a label on the left of each.

    Args:
        axes: where.
        rows: uint8 (columns, channels, height, width) each.
        labels: one for each row.
        levels: grey levels.
    """
    import torch

    columns, _, height, _ = rows[0].shape
    grid = image_grid(torch.cat(list(rows)), columns, levels)
    axes.imshow(grid, interpolation="nearest")
    # A row is height + 1 pixels of the image from the next, whatever the enlargement.
    pitch = (grid.shape[0] + grid.shape[0] / (len(rows) * (height + 1) - 1)) / len(rows)
    axes.set_yticks([pitch * (row + 0.5) for row in range(len(rows))], labels)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
