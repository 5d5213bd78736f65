"""Is one model better than another? Differences on the same images or windows, with error bars and a verdict.

Lower is better for every metric here. A verdict asks for 99 % confidence, two-sided: of a hundred comparisons of equal
models about one comes out as a difference.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowbench.errors import InputError
from flowbench.evaluation.error_bars import ErrorBar, joined, over_seeds
from flowbench.evaluation.overlapping import FEWEST_HORIZONS, hac_stderr, waves

__all__ = ["LEVEL", "POWER", "Paired", "compare_values"]

LEVEL = 0.99
POWER = 0.8
"""How surely the number of images or seeds that a tie asks for would show the difference, if it is what it seems."""
MOST_NEEDED = 10**12
"""Images, windows or seeds that are as good as none."""
Verdict = Literal["better", "worse", "tie", "no verdict"]


@dataclass(frozen=True)
class Paired:
    """Model A against model B: differences are A − B, in the metric's unit."""

    n: int
    """Images or windows."""
    seeds: tuple[int, int]
    """Runs of A and of B."""
    values: tuple[float, float]
    """Means of A and of B over images and seeds."""
    unpaired_stderr: float | None
    """Of the difference, if the two had been measured on different images: √(se_A² + se_B²). None: see `horizons`."""
    difference: float
    item_stderr: float | None
    """Of the difference over the images that both were measured on; for windows see `hac_stderr`."""
    seed_stderr: float | None
    """Of the difference over training runs; None where one of the two has a single run."""
    stderr: float | None
    """√(item_stderr² + seed_stderr²)."""
    p_value: float | None
    """Two-sided, of no difference."""
    horizons: float | None
    """How many independent horizons the windows are worth; with too few there is no error over them and no verdict.

    None for images.
    """
    verdict: Verdict
    """A is better (lower), worse, or a tie."""
    items_needed: int | None
    """Images or windows in all that would settle a tie if the difference is what it seems; None: no number would.

    Without a verdict: the fewest windows that allow one.
    """
    seeds_needed: int | None
    """Seeds each that would; None: no number would, or the spread over seeds is not known."""


def compare_values(
    a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]], *, horizon: int | None = None
) -> Paired:
    """Compare two models by their values on the same images or windows.

    Over images, the standard error is that of the mean of per-image differences. Over overlapping forecast windows, the
    test is Diebold & Mariano's (1995) with an error that counts their dependence: see `hac_stderr`. With several runs
    each, the differences of the means over runs are compared, and the spread over runs (ddof 1) adds
    √(s_A²/k_A + s_B²/k_B). The quantiles are Student's t, with Welch's degrees of freedom for the sum.

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
    difference = float((mean_a - mean_b).mean())
    one, other, item = (_over_items(values, horizon) for values in (mean_a, mean_b, mean_a - mean_b))
    spreads = _over_seeds(a, b)
    whole = joined([item, *spreads]) if item else None
    p_value = whole.p_value(difference) if whole else None
    verdict: Verdict = "no verdict"
    items, seeds = FEWEST_HORIZONS * horizon if horizon else None, None
    if item and p_value is not None:
        verdict = "tie" if p_value >= 1 - LEVEL else "better" if difference < 0 else "worse"
        items, seeds = _needed(difference, n, horizon, item, spreads) if verdict == "tie" else (None, None)
    return Paired(
        n=n,
        seeds=(len(a), len(b)),
        values=(float(mean_a.mean()), float(mean_b.mean())),
        unpaired_stderr=joined([one, other]).stderr if one and other else None,
        difference=difference,
        item_stderr=item.stderr if item else None,
        seed_stderr=joined(spreads).stderr if spreads else None,
        stderr=whole.stderr if whole else None,
        p_value=p_value,
        horizons=n / horizon if horizon else None,
        verdict=verdict,
        items_needed=items,
        seeds_needed=seeds,
    )


def _over_items(values: NDArray[np.float64], horizon: int | None) -> ErrorBar | None:
    freedom = _freedom(len(values), horizon)
    if horizon is None:
        return ErrorBar(float(values.std(ddof=1)) / math.sqrt(len(values)), freedom)
    return ErrorBar(hac_stderr(values, horizon), freedom) if freedom else None


def _freedom(items: int, horizon: int | None) -> int:
    return items - 1 if horizon is None else waves(items, horizon)


def _over_seeds(a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]]) -> list[ErrorBar]:
    """Return the error bars of both means over runs; none where one of the two has a single run."""
    if min(len(a), len(b)) < 2:
        return []
    return [over_seeds(float(np.std([values.mean() for values in runs], ddof=1)), len(runs)) for runs in (a, b)]


def _needed(
    difference: float, n: int, horizon: int | None, item: ErrorBar, spreads: Sequence[ErrorBar]
) -> tuple[int | None, int | None]:
    """Return how many images, and how many seeds each, would show the difference with `POWER` at `LEVEL`."""
    if not difference:
        return None, None

    def by_items(items: int) -> bool:
        more = ErrorBar(item.stderr * math.sqrt(n / items), _freedom(items, horizon))
        return joined([more, *spreads]).power(difference, LEVEL) >= POWER

    def by_seeds(seeds: int) -> bool:
        more = [ErrorBar(bar.stderr * math.sqrt((bar.freedom + 1) / seeds), seeds - 1) for bar in spreads]
        return joined([item, *more]).power(difference, LEVEL) >= POWER

    return _fewest(by_items, n), _fewest(by_seeds, 2) if spreads else None


def _fewest(enough: Callable[[int], bool], least: int) -> int | None:
    found = least + bisect_left(range(least, MOST_NEEDED), True, key=enough)
    return found if found < MOST_NEEDED else None
