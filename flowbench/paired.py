"""Is one model better than another? Differences on the same images or windows, with error bars and a verdict.

Lower is better for every metric here. A verdict asks for 99 % confidence, two-sided: of a hundred comparisons of equal
models about one comes out as a difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from flowbench.errors import InputError

__all__ = ["LEVEL", "POWER", "Paired", "compare_values", "hac_stderr"]

LEVEL = 0.99
POWER = 0.8
"""How surely the number of images or seeds that a tie asks for would show the difference, if it is what it seems."""
Verdict = Literal["better", "worse", "tie"]


@dataclass(frozen=True)
class Paired:
    """Model A against model B: differences are A − B, in the metric's unit."""

    n: int
    """Images or windows."""
    seeds: tuple[int, int]
    """Runs of A and of B."""
    values: tuple[float, float]
    """Means of A and of B over images and seeds."""
    unpaired_stderr: float
    """Of the difference, if the two had been measured on different images: √(se_A² + se_B²)."""
    difference: float
    item_stderr: float
    """Of the difference over the images that both were measured on; for windows, by a HAC variance."""
    seed_stderr: float | None
    """Of the difference over training runs; None where one of the two has a single run."""
    stderr: float
    """√(item_stderr² + seed_stderr²)."""
    p_value: float
    """Two-sided, of no difference."""
    verdict: Verdict
    """A is better (lower), worse, or a tie."""
    items_needed: int | None
    """Images or windows in all that would settle a tie if the difference is what it seems; None: no number would."""
    seeds_needed: int | None
    """Seeds each that would; None: no number would, or the spread over seeds is not known."""


def compare_values(
    a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]], *, horizon: int | None = None
) -> Paired:
    """Compare two models by their values on the same images or windows.

    Over images, the standard error is that of the mean of per-image differences. Over overlapping forecast windows, the
    test is Diebold & Mariano's (1995) with a HAC variance: see `hac_stderr`. With several runs each, the differences of
    the means over runs are compared, and the spread over runs (ddof 1) adds √(s_A²/k_A + s_B²/k_B), with Welch's
    degrees of freedom.

    Args:
        a: one array of values per run of A, (n,), in the same order of images or windows.
        b: likewise of B.
        horizon: steps of a forecast; None for images.

    Raises:
        InputError: the arrays differ in length, or hold fewer than two values.
    """
    lengths = {len(values) for values in (*a, *b)}
    if len(lengths) != 1 or min(lengths) < 2:
        raise InputError(f"the two were measured on {' and '.join(map(str, sorted(lengths)))} images or windows")
    n = lengths.pop()
    mean_a, mean_b = np.mean(a, axis=0), np.mean(b, axis=0)
    differences = mean_a - mean_b
    difference = float(differences.mean())
    one, other, item = (_stderr(values, horizon) for values in (mean_a, mean_b, differences))
    spread, freedom = _over_seeds(a, b)
    stderr = math.hypot(item, spread or 0.0)
    # Welch–Satterthwaite. Under Bartlett's weights, a variance over L lags has 1.5 n/L degrees of freedom
    # (Priestley 1981, Spectral Analysis and Time Series, section 6.2).
    of_items = n - 1 if horizon is None else 1.5 * n / _lags(n, horizon)
    freedom = stderr**4 / (item**4 / of_items + spread**4 / freedom) if spread else of_items
    p_value = float(2 * scipy.stats.t.sf(abs(difference) / stderr, freedom)) if stderr else float(difference == 0)
    settled = p_value < 1 - LEVEL
    items, seeds = (None, None) if settled else _needed(difference, item, spread, n, min(len(a), len(b)))
    return Paired(
        n=n,
        seeds=(len(a), len(b)),
        values=(float(mean_a.mean()), float(mean_b.mean())),
        unpaired_stderr=math.hypot(one, other),
        difference=difference,
        item_stderr=item,
        seed_stderr=spread,
        stderr=stderr,
        p_value=p_value,
        verdict="tie" if not settled else "better" if difference < 0 else "worse",
        items_needed=items,
        seeds_needed=seeds,
    )


def hac_stderr(values: NDArray[np.float64], horizon: int) -> float:
    """Return the standard error of the mean of a dependent series by Newey & West (1987).

    Losses of windows that overlap depend on each other over at least `horizon` steps. Bartlett's weights shrink towards
    the last lag, so three times as many lags are used: with `horizon` lags a third of the variance would be missing.
    What is missing still makes the error somewhat too small: by a sixth over sixty horizons.
    """
    import statsmodels.api as sm

    how = {"maxlags": _lags(len(values), horizon), "use_correction": True}
    return float(sm.OLS(values, np.ones(len(values))).fit(cov_type="HAC", cov_kwds=how).bse[0])


def _lags(n: int, horizon: int) -> int:
    return max(1, min(3 * horizon, n // 4))


def _stderr(values: NDArray[np.float64], horizon: int | None) -> float:
    if horizon is not None:
        return hac_stderr(values, horizon)
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _over_seeds(a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]]) -> tuple[float | None, float]:
    """Return the standard error of the difference over runs, and its degrees of freedom (Welch)."""
    if min(len(a), len(b)) < 2:
        return None, math.inf
    parts = [(float(np.var([values.mean() for values in runs], ddof=1)) / len(runs), len(runs) - 1) for runs in (a, b)]
    variance = sum(part for part, _ in parts)
    below = sum(part**2 / freedom for part, freedom in parts)
    return math.sqrt(variance), variance**2 / below if below else math.inf


def _needed(difference: float, item: float, spread: float | None, n: int, seeds: int) -> tuple[int | None, int | None]:
    """Return how many images, and how many seeds each, would show the difference with `POWER` at `LEVEL`."""
    quantile = float(scipy.stats.norm.ppf((1 + LEVEL) / 2) + scipy.stats.norm.ppf(POWER))
    allowed = (difference / quantile) ** 2
    left_for_items, left_for_seeds = allowed - (spread or 0.0) ** 2, allowed - item**2
    items = math.ceil(n * item**2 / left_for_items) if left_for_items > 0 else None
    more_seeds = math.ceil(seeds * spread**2 / left_for_seeds) if spread and left_for_seeds > 0 else None
    return items, more_seeds
