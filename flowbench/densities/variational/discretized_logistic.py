"""A logistic distribution over grey levels: the IAF-VAE's decoder, made proper, and as its authors wrote it.

Level x of `levels` stands for the bin from l = x/levels − ½ to l + 1/levels (Kingma et al. 2016, appendix C.1).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["as_input", "authors_log_prob", "clamp_location", "draw", "log_prob", "nearest_level"]

AUTHORS_FLOOR = 1e-7
"""What the authors' code adds to every probability inside the logarithm."""


def as_input(images: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """Return (x + ½)/levels − ½, the middle of each value's bin, in (−½, ½)."""
    return (images.to(dtype) + 0.5) / levels - 0.5


def clamp_location(location: Tensor, levels: int) -> Tensor:
    """Return the location within the middles of the outermost bins; no gradient comes through where it was outside."""
    edge = 0.5 - 0.5 / levels
    return location.clamp(-edge, edge)


def log_prob(images: Tensor, location: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Return log P(x) in nats, of the location's shape; over the levels P sums to 1.

    P(x) = σ(a) − σ(b) with a and b the bin's edges, less the location, over the scale. The outermost bins reach to
    infinity: without that, as in the authors' code, the mass beyond ±½ is lost and P is no distribution.

    Args:
        images: uint8, below `levels`, of the location's shape.
        location: of the logistic.
        log_scale: logarithm of its scale, a scalar or broadcast.
        levels: 2 or more.
    """
    above, below, width = _bins(images, location, log_scale, levels)
    # σ(a) − σ(b) = σ(a) σ(−b) (1 − e^(b − a)): each factor keeps its digits where the two sigmoids agree in all.
    inner = above + below + width
    return torch.where(images == 0, above, torch.where(images == levels - 1, below, inner))


def authors_log_prob(images: Tensor, location: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Return log(P(x) + 1e-7) with bins of one width, as the authors' code has it: what their figures are made of.

    Over the levels it sums to 1 less the mass outside ±½, and levels · 1e-7. Arguments as in `log_prob`.
    """
    above, below, width = _bins(images, location, log_scale, levels)
    return torch.log(torch.exp(above + below + width) + AUTHORS_FLOOR)


def draw(location: Tensor, log_scale: Tensor, levels: int, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """Return levels, uint8, that follow `log_prob`.

    Args:
        location, log_scale, levels: as in `log_prob`.
        uniform: in [0, 1), of the location's shape.
        temperature: factor on the logistic's deviations.
    """
    noise = torch.logit(uniform, eps=1e-7)
    return nearest_level(location + temperature * torch.exp(log_scale) * noise, levels)


def nearest_level(value: Tensor, levels: int) -> Tensor:
    """Return the level in whose bin a value lies, uint8; that of the outermost bins beyond ±½."""
    return ((value + 0.5) * levels).floor().clamp(0, levels - 1).to(torch.uint8)


def _bins(images: Tensor, location: Tensor, log_scale: Tensor, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log σ(a), log σ(−b) and log(1 − e^(b − a)) of each value's bin."""
    per_scale = torch.exp(-log_scale)
    b = (images.to(location.dtype) / levels - 0.5 - location) * per_scale
    a = b + per_scale / levels
    return F.logsigmoid(a), F.logsigmoid(-b), torch.log(-torch.expm1(-per_scale / levels))
