"""How good a distribution of the future was once it is known: exact where there is a closed form, else by samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowbench.forecasting.distribution import DistributionForecaster

__all__ = [
    "COVERAGES",
    "SAMPLES",
    "Scores",
    "crps_of_normal",
    "crps_of_samples",
    "pit_of_samples",
    "quantiles_of_samples",
    "score",
]

SAMPLES = 99
"""Of each window: the 5th and the 95th in order bound 90 % of a distribution exactly, the 25th and the 75th half."""
COVERAGES = (0.5, 0.9)
"""Central intervals whose coverage is measured."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a batch of windows, on normalized values, float64."""

    mean: Tensor
    """The forecast's mean, (batch, horizon, outputs), as the model gives it."""
    by_value: dict[str, Tensor]
    """Of each value, (batch, horizon, outputs): `nll` in nats (only where there is a density), `crps`, `coverage_50`
    and `coverage_90` (1 inside, 0 outside), `mae_median`."""
    crps_variance: Tensor | None
    """Of each window's mean CRPS over draws of the samples, (batch,); None: it is exact."""


def score(
    forecaster: DistributionForecaster, past: Tensor, future: Tensor, generator: torch.Generator
) -> Scores:  # fmt: skip
    """Score a forecaster's distributions.

    Args:
        forecaster: in evaluation mode.
        past: normalized, (batch, lookback, inputs).
        future: what came, normalized, (batch, horizon, outputs).
        generator: draws the samples where there is no closed form.
    """
    by_value: dict[str, Tensor] = {}
    if forecaster.has_density:
        by_value["nll"] = -forecaster.log_prob_by_value(future, past).double()
    normal = forecaster.normal(past)
    if normal is not None:
        centre, deviation = (part.double() for part in normal)
        error = (future.double() - centre).abs()
        by_value["crps"] = crps_of_normal(centre, deviation, future.double())
        for coverage in COVERAGES:
            half_width = deviation * math.sqrt(2) * torch.erfinv(torch.tensor(coverage, dtype=torch.float64))
            by_value[_name(coverage)] = (error <= half_width).double()
        by_value["mae_median"] = error
        return Scores(normal[0], by_value, None)
    drawn, truth = forecaster.sample(past, SAMPLES, generator), future.double()
    ordered, places = drawn.movedim(0, -1).double().sort(dim=-1)  # once: half of the scores' time
    by_value["crps"], variance = _crps(ordered, places, truth)
    for coverage in COVERAGES:
        below = round((1 - coverage) / 2 * (SAMPLES + 1))
        inside = (ordered[..., below - 1] <= truth) & (truth <= ordered[..., SAMPLES - below])
        by_value[_name(coverage)] = inside.double()
    by_value["mae_median"] = (ordered[..., SAMPLES // 2] - truth).abs()
    mean = drawn.mean(dim=0) if forecaster.sampled_mean else forecaster(past)
    return Scores(mean, by_value, variance)


def crps_of_normal(mean: Tensor, deviation: Tensor, truth: Tensor) -> Tensor:
    """Return σ (z (2Φ(z) − 1) + 2φ(z) − 1/√π), z = (y − μ)/σ (Gneiting & Raftery 2007, eq. 21), elementwise."""
    z = (truth - mean) / deviation
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return deviation * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def crps_of_samples(samples: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate the CRPS without bias, and say how sure the estimate is.

    mean |x_i − y| − Σ_{i,j} |x_i − x_j| / (2 m (m − 1)): the fair estimate (Ferro 2014, eq. 3; the sum over i ≠ j of
    Gneiting & Raftery 2007, eq. 20). As a U-statistic its variance is nearly Var(g) / m with g_i = |x_i − y| −
    mean_{j ≠ i} |x_i − x_j|; the values of a window are drawn together, so that g is averaged over them first.

    Args:
        samples: (batch, horizon, outputs, m), m ≥ 2.
        truth: (batch, horizon, outputs).

    Returns:
        Of each value the estimate, (batch, horizon, outputs); the variance of its mean over each window, (batch,).
    """
    return _crps(*samples.sort(dim=-1), truth)


def _crps(ordered: Tensor, places: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """See crps_of_samples; the samples come in order, with the places that they had before."""
    m = ordered.shape[-1]
    rank = torch.arange(1, m + 1, dtype=ordered.dtype, device=ordered.device)
    before = ordered.cumsum(dim=-1)
    # Σ_j |x_(k) − x_j| = k x_(k) − S_k + (S_m − S_k) − (m − k) x_(k), S_k the sum of the k smallest.
    others = ((2 * rank - m) * ordered - 2 * before + before[..., -1:]) / (m - 1)
    away = (ordered - truth.unsqueeze(-1)).abs()
    crps = away.mean(dim=-1) - others.mean(dim=-1) / 2
    influence = torch.empty_like(ordered).scatter_(-1, places, away - others)
    return crps, influence.mean(dim=(1, 2)).var(dim=-1) / m


def pit_of_samples(samples: Tensor, truth: Tensor, generator: torch.Generator) -> Tensor:
    """Return the place of the truth among samples, uniform in (0, 1) if the truth is drawn as they are.

    (rank + u (ties + 1)) / (m + 1), u uniform: the randomized probability integral transform (Czado, Gneiting & Held
    2009, eq. 1); samples may be equal to the truth, of a sensor that is stuck for example.

    Args:
        samples: (…, m).
        truth: (…).
        generator: of u.
    """
    rank = (samples < truth.unsqueeze(-1)).sum(dim=-1)
    u = torch.rand(rank.shape, generator=generator, dtype=torch.float64).to(rank.device)
    ties = (samples == truth.unsqueeze(-1)).sum(dim=-1)
    return (rank + u * (ties + 1)) / (samples.shape[-1] + 1)


def quantiles_of_samples(samples: Tensor, levels: Sequence[float]) -> Tensor:
    """Return quantiles such that the next draw lies below the quantile of level q with probability q, if it can be.

    Between the k-th and the next sample in order, k + fraction = q (m + 1) (Weibull's plotting positions); the extreme
    samples for levels beyond 1/(m + 1) and m/(m + 1).

    Args:
        samples: (…, m).
        levels: in (0, 1).

    Returns:
        (levels, …).
    """
    ordered, m = samples.sort(dim=-1).values, samples.shape[-1]
    found = []
    for level in levels:
        place = min(max(level * (m + 1) - 1, 0.0), m - 1.0)
        below = min(int(place), max(m - 2, 0))
        above = min(below + 1, m - 1)
        found.append(torch.lerp(ordered[..., below], ordered[..., above], place - below))
    return torch.stack(found)


def _name(coverage: float) -> str:
    return f"coverage_{coverage * 100:.0f}"
