"""Samples of a density model in a grid, at several temperatures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowbench.density import DensityModel
from flowbench.figures.theme import new_figure, save, themed

__all__ = ["TEMPERATURES", "draw_samples", "image_grid", "sample_figure"]

TEMPERATURES = (0.7, 0.85, 1.0)
MIN_SIDE = 48
"""Pixels that an image takes in a grid at the least: 8 × 8 digits are enlarged six times."""


def draw_samples(model: DensityModel, n: int, temperature: float, seed: int) -> Tensor:
    """Return n samples, uint8 (n, channels, height, width) on the CPU: the same latents, scaled, at any temperature."""
    # The generator lives on the CPU, so that every device draws the same latents.
    generator = torch.Generator().manual_seed(seed)
    return model.sample(n, temperature, generator).cpu()


def image_grid(images: Tensor, columns: int, levels: int, gap: int = 1) -> NDArray[np.uint8]:
    """Lay images out in rows on white and enlarge them by a whole factor, each pixel a square.

    Args:
        images: uint8 (n, channels, height, width), channels 1 (grey) or 3 (RGB), values below `levels`.
        columns: images in a row.
        levels: grey levels; levels − 1 becomes 255.
        gap: pixels between images, enlarged with them.

    Returns:
        uint8 RGB, (height, width, 3).
    """
    n, channels, height, width = images.shape
    scale = -(-MIN_SIDE // min(height, width)) if min(height, width) < MIN_SIDE else 1
    shown = np.rint(images.permute(0, 2, 3, 1).numpy() * (255 / (levels - 1))).astype(np.uint8)
    shown = np.broadcast_to(shown, (n, height, width, 3)) if channels == 1 else shown
    rows = -(-n // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, image in enumerate(shown):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid.repeat(scale, axis=0).repeat(scale, axis=1)


def sample_figure(
    model: DensityModel,
    path: Path,
    *,
    experiment: str,
    step: int,
    seed: int = 0,
    temperatures: Sequence[float] = TEMPERATURES,
    n: int = 36,
    columns: int = 6,
) -> Path:
    """Write a grid of samples for each temperature, side by side, as PNG; a function of (model, seed).

    Args:
        model: what is sampled, in evaluation mode whatever its mode.
        path: where the PNG goes.
        experiment: its name, for the title.
        step: the checkpoint's, for the title.
        seed: of the latents, the same at every temperature.
        temperatures: one grid each.
        n: samples in a grid.
        columns: samples in a row of a grid.
    """
    grids = [
        image_grid(draw_samples(model, n, temperature, seed), columns, model.levels) for temperature in temperatures
    ]
    inches = 3.2
    with themed():
        figure = new_figure(inches * len(grids), inches * grids[0].shape[0] / grids[0].shape[1] + 0.8)
        axes = figure.subplots(1, len(grids), squeeze=False)[0]
        for place, grid, temperature in zip(axes, grids, temperatures, strict=True):
            place.imshow(grid, interpolation="nearest")
            place.set_title(f"temperature {temperature:g}")
            place.set_axis_off()
        figure.suptitle(f"{experiment}: samples at step {step:,}")
        return save(figure, path)
