"""Samples of a density model: at several temperatures, and larger than the images that it was trained on."""

from pathlib import Path

import torch

from flowbench.densities.model import DensityModel, LatentDensity
from flowbench.figures.encoded import Decoded, decode, density_of, latents_of
from flowbench.figures.grids import show_grid
from flowbench.figures.kinds import NotDrawableError, Subject, figure_kind
from flowbench.figures.theme import entitle, new_figure, save, themed
from flowbench.tasks.density import build_density

__all__ = ["draw_extrapolation", "draw_samples", "resized", "sample"]

TEMPERATURES = (0.7, 0.85, 1.0)
SIDE = 6
"""Samples in a row and in a column of a grid."""
LARGER_AT = 0.7
"""Temperature of samples at sizes that the model never saw, where more of them overflow."""
SIZES = {1: 6, 2: 3, 3: 2}
"""How many times larger, and samples in a row: about the same area each."""


def sample(model: DensityModel, n: int, temperature: float, seed: int) -> Decoded:
    """Return n samples of the same random numbers at any temperature: of a model with latents, white ones, scaled."""
    # The generator lives on the CPU, so that every device draws the same latents.
    generator = torch.Generator().manual_seed(seed)
    if not isinstance(model, LatentDensity):
        return Decoded(model.sample(n, temperature, generator).cpu(), 0)
    return decode(model, temperature * torch.randn((n, *model.latent_shape), generator=generator))


@figure_kind("samples", "density")
def draw_samples(subject: Subject) -> Path:
    """Draw a grid of samples for each temperature, side by side, of the same random numbers."""
    model = density_of(subject)
    temperatures = TEMPERATURES if model.tempered else (1.0,)
    inches = 3.2
    with themed():
        figure = new_figure(inches * len(temperatures), inches + 0.8)
        panels = figure.subplots(1, len(temperatures), squeeze=False)[0]
        for axes, temperature in zip(panels, temperatures, strict=True):
            drawn = sample(model, SIDE**2, temperature, subject.experiment.seed)
            show_grid(axes, drawn.images, SIDE, model.levels)
            axes.set_title(f"temperature {temperature:g}{drawn.note}")
        title = subject.title("samples")
        entitle(figure, title)
        same = "latents" if isinstance(model, LatentDensity) else "random numbers"
        text = f"The same {same} at each temperature." if model.tempered else "At temperature 1."
        return save(figure, subject.file("samples.png"), f"{title}. {text}")


@figure_kind("extrapolation", "density")
def draw_extrapolation(subject: Subject) -> Path:
    """Draw samples at the size of the training images and at larger ones (Dinh et al. 2017, appendix B)."""
    latents_of(subject)
    models = {factor: resized(subject, factor) for factor in SIZES}
    inches = 3.2
    with themed():
        figure = new_figure(inches * len(SIZES), inches + 0.8)
        for axes, (factor, model) in zip(figure.subplots(1, len(SIZES)), models.items(), strict=True):
            columns = SIZES[factor]
            drawn = sample(model, columns**2, LARGER_AT, subject.experiment.seed)
            show_grid(axes, drawn.images, columns, model.levels)
            _, height, width = model.image_shape
            axes.set_title(f"{height}×{width}" + (", as trained" if factor == 1 else "") + drawn.note)
        title = subject.title("samples of larger sizes", temperature=LARGER_AT)
        entitle(figure, title)
        return save(figure, subject.file("extrapolation.png"), f"{title}. Trained at the first size alone.")


def resized(subject: Subject, factor: int) -> DensityModel:
    """Return the same model, its weights included, for images `factor` times as high and wide.

    Raises:
        NotDrawableError: a parameter belongs to places of the image, so the architecture is not convolutional.
    """
    data = subject.run.environment["data"]
    channels, height, width = data["shape"]
    larger = build_density(subject.experiment, {**data, "shape": [channels, factor * height, factor * width]})
    state = subject.model.state_dict()
    for name, tensor in larger.state_dict().items():
        if tensor.shape != state[name].shape:
            raise NotDrawableError(
                f"{subject.experiment.model.name} is not convolutional: its {name} belongs to {height}x{width} pixels"
            )
    larger.load_state_dict(state)
    return larger.to(subject.device).eval()
