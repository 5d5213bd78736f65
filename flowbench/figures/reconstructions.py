"""From an image to its latents and back: all of them, or the coarser scales' alone."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from flowbench.densities.model import LatentDensity
from flowbench.figures.encoded import decode, density_of, encode, images_to_show, latents_of
from flowbench.figures.grids import rows_height, show_rows
from flowbench.figures.kinds import NotDrawableError, Subject, figure_kind
from flowbench.figures.theme import entitle, new_figure, save, themed

__all__ = ["draw_compression", "draw_reconstructions", "keep_coarser"]

COLUMNS = 10


@figure_kind("reconstructions", "density")
def draw_reconstructions(subject: Subject) -> Path:
    """Draw images, what comes back from their latents, and where the two differ."""
    images, latents = encode(subject, images_to_show(subject, COLUMNS))
    back = decode(latents_of(subject), latents).images
    differing = back != images
    levels = latents_of(subject).levels
    marked = (levels - 1) * differing.any(1, keepdim=True).to(torch.uint8).expand_as(images)
    amount = int(differing.sum())
    text = "no value differs" if amount == 0 else f"{amount:,} of {images.numel():,} values differ"
    return _draw_rows(
        subject,
        {"image": images, "reconstruction": back, "differs": marked},
        subject.title(f"reconstructions ({text})"),
        "Images that were not trained on, what the model makes of their latents, and in white the pixels "
        "in which the two differ",
        "reconstructions.png",
    )


@figure_kind("compression", "density")
def draw_compression(subject: Subject) -> Path:
    """Draw images from the latents of their coarser scales alone, the others zero or drawn anew.

    The semantic levels of Dinh et al. 2017, figure 9 (appendix D).
    """
    model = latents_of(subject)
    images, latents = encode(subject, images_to_show(subject, COLUMNS))
    parts = model.by_scale(latents)
    if len(parts) == 1:
        raise NotDrawableError(f"{subject.experiment.name} has a single scale: there are no finer latents to drop")
    generator = torch.Generator().manual_seed(subject.experiment.seed)
    fresh = torch.randn(latents.shape, generator=generator)
    rows = {"image": images}
    for dropped in range(1, len(parts)):
        kept = sum(part[0].numel() for part in parts[dropped:]) / latents[0].numel()
        for word, others in (("zero", torch.zeros_like(latents)), ("drawn", fresh)):
            mixed = keep_coarser(model, latents, others, dropped)
            decoded = decode(model, mixed)
            rows[f"{kept:.0%} of the latents,\nothers {word}{decoded.note}"] = decoded.images
    return _draw_rows(
        subject,
        rows,
        subject.title("coarser latents kept", temperature=1),
        "Images, and what the model makes of their coarser scales' latents when the others are zero or drawn anew",
        "compression.png",
    )


def keep_coarser(model: LatentDensity, latents: Tensor, others: Tensor, dropped: int) -> Tensor:
    """Return latents whose `dropped` finest scales are those of `others`.

    Args:
        model: knows the scales.
        latents, others: (batch, ...).
        dropped: number of scales, less than the model has.
    """
    return model.from_scales([*model.by_scale(others)[:dropped], *model.by_scale(latents)[dropped:]])


def _draw_rows(subject: Subject, rows: Mapping[str, Tensor], title: str, text: str, name: str) -> Path:
    with themed():
        figure = new_figure(9, rows_height(len(rows), COLUMNS))
        show_rows(figure.subplots(), list(rows.values()), list(rows), density_of(subject).levels)
        entitle(figure, title)
        return save(figure, subject.file(name), f"{title}. {text}.")
