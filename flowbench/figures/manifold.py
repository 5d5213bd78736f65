"""Between images: the latent manifold through four of them, and straight and round ways between two."""

import math
from pathlib import Path

import torch
from torch import Tensor

from flowbench.figures.encoded import decode, encode, images_to_show, latents_of
from flowbench.figures.grids import image_grid, rows_height, show_rows
from flowbench.figures.kinds import Subject, figure_kind
from flowbench.figures.theme import entitle, new_figure, save, themed

__all__ = ["draw_interpolation", "draw_manifold", "manifold", "on_the_line", "on_the_sphere"]

ANGLES = 8
"""φ and φ′ are 0, π/4, …, 7π/4, as in the paper."""
PAIRS = 3
STEPS = 9


@figure_kind("manifold", "density")
def draw_manifold(subject: Subject) -> Path:
    """Draw the manifold through four images as a grid: φ from top to bottom, φ′ from left to right."""
    _, corners = encode(subject, images_to_show(subject, 4))
    angles = 2 * math.pi * torch.arange(ANGLES) / ANGLES
    points = manifold(corners, angles, angles)
    decoded = decode(latents_of(subject), points.flatten(0, 1))
    title = subject.title("latent manifold of four images (eq. 19)") + decoded.note
    with themed():
        figure = new_figure(6.4, 7)
        axes = figure.subplots()
        grid = image_grid(decoded.images, ANGLES, latents_of(subject).levels)
        axes.imshow(grid, interpolation="nearest")
        centres = [grid.shape[0] / ANGLES * (place + 0.5) for place in range(ANGLES)]
        names = [_in_pi(place) for place in range(ANGLES)]
        axes.set_xticks(centres, names)
        axes.set_yticks(centres, names)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.set(xlabel="φ′", ylabel="φ")
        for spine in axes.spines.values():
            spine.set_visible(False)
        entitle(figure, title)
        text = "The four images stand at (φ, φ′) = (0, 0), (0, π/2), (π/2, 0) and (π/2, π/2)"
        return save(figure, subject.file("manifold.png"), f"{title}. {text}.")


@figure_kind("interpolation", "density")
def draw_interpolation(subject: Subject) -> Path:
    """Draw the ways between pairs of images, straight and along the sphere, in white latents."""
    _, latents = encode(subject, images_to_show(subject, 2 * PAIRS))
    places = torch.linspace(0, 1, STEPS)
    rows, labels = [], []
    for start, end in zip(latents[:PAIRS], latents[PAIRS:], strict=True):
        for word, way in (("linear", on_the_line), ("spherical", on_the_sphere)):
            decoded = decode(latents_of(subject), way(start, end, places))
            rows.append(decoded.images)
            labels.append(word + decoded.note)
    title = subject.title("interpolation between pairs of images")
    with themed():
        figure = new_figure(9, rows_height(len(rows), STEPS))
        show_rows(figure.subplots(), rows, labels, latents_of(subject).levels)
        entitle(figure, title)
        text = "Each pair twice, an image at either end: on the straight line between its latents and on the sphere"
        return save(figure, subject.file("interpolation.png"), f"{title}. {text}.")


def manifold(corners: Tensor, phi: Tensor, phi_prime: Tensor) -> Tensor:
    """Return z = cos φ (cos φ′ z₁ + sin φ′ z₂) + sin φ (cos φ′ z₃ + sin φ′ z₄): Dinh et al. 2017, eq. 19.

    Args:
        corners: z₁ … z₄, (4, ...).
        phi: (n,).
        phi_prime: (m,).

    Returns:
        (n, m, ...).
    """
    outer, inner = (torch.stack((angle.cos(), angle.sin()), dim=1).to(corners.dtype) for angle in (phi, phi_prime))
    return torch.einsum("ai,bj,ij...->ab...", outer, inner, corners.reshape(2, 2, *corners.shape[1:]))


def on_the_line(start: Tensor, end: Tensor, places: Tensor) -> Tensor:
    """Return (1 − t) · start + t · end for each t of `places`, (n, ...)."""
    t = places.view(-1, *[1] * start.ndim)
    return (1 - t) * start + t * end


def on_the_sphere(start: Tensor, end: Tensor, places: Tensor) -> Tensor:
    """Return sin((1 − t) ω)/sin ω · start + sin(t ω)/sin ω · end, ω being the angle between the two, (n, ...).

    White latents of D dimensions lie near the sphere of radius √D, and so does this way between them
    (Shoemake 1985). Points in one direction, or opposite ones, are joined by the line.
    """
    cosine = torch.dot(start.flatten(), end.flatten()) / (start.norm() * end.norm())
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle.sin().abs() < 1e-4:
        return on_the_line(start, end, places)
    t = places.view(-1, *[1] * start.ndim)
    return (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / angle.sin()


def _in_pi(place: int) -> str:
    """Return place · 2π / ANGLES as a multiple of π."""
    divisor = math.gcd(2 * place, ANGLES)
    over, under = 2 * place // divisor, ANGLES // divisor
    if over == 0:
        return "0"
    return f"{'' if over == 1 else over}π{'' if under == 1 else f'/{under}'}"
