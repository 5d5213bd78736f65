"""The error of a mean over overlapping forecast windows, which depend on each other over a horizon and longer."""

import math
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = ["FEWEST_HORIZONS", "hac_stderr", "waves"]

FEWEST_HORIZONS = 10
"""In fewer, an error estimated from the windows themselves tells next to nothing: no verdict."""
MOST_WAVES = 8
"""More would take errors with a memory of days for independent ones, and gain little power.

With 30 waves, 24 steps and a memory of 100 steps, equal models differ in three of a hundred comparisons.
"""


def waves(windows: int, horizon: int) -> int:
    """Return from how many waves the error is estimated, its degrees of freedom; 0: too few windows for an error.

    A third of the number of horizons at most: faster waves are damped by the windows' overlap.
    """
    return 0 if windows < FEWEST_HORIZONS * horizon else min(MOST_WAVES, windows // (3 * horizon))


def hac_stderr(values: NDArray[np.float64], horizon: int) -> float:
    """Return the standard error of the mean of a dependent series from its slowest waves; nan for too few windows.

    The mean square of the first ν = `waves` cosine coefficients estimates the variance that the mean has, and
    difference / error has Student's t distribution with ν degrees of freedom, however few they are: the fixed-b
    distribution (Kiefer & Vogelsang 2005) of this kernel (Müller 2007; Lazarus, Lewis, Stock & Watson 2018, "HAR
    Inference", section 4). A kernel over lags with normal quantiles is too sure at horizons that are not small beside
    the series.

    Args:
        values: one for each window, in order, each a row later than the one before, (n,).
        horizon: steps of a window.
    """
    count = waves(len(values), horizon)
    if count == 0:
        return math.nan
    amplitudes = scipy.fft.dct(values, norm="ortho")[1 : count + 1]
    return math.sqrt(float(np.mean(amplitudes**2)) / len(values)) * _undamped(len(values), horizon, count)


@lru_cache(maxsize=64)
def _undamped(windows: int, horizon: int, count: int) -> float:
    """Return what the estimate falls short by because windows overlap: the right value for rows without memory.

    A window's value is then a mean over `horizon` independent rows, so that every weighting of windows is one of rows,
    whose variance is the sum of the squares of its weights.
    """
    flat_and_waves = scipy.fft.idct(np.eye(count + 1, windows), norm="ortho")
    sums = np.cumsum(np.pad(flat_and_waves, ((0, 0), (horizon, horizon - 1))), axis=1)
    variances = ((sums[:, horizon:] - sums[:, :-horizon]) ** 2).sum(axis=1)
    return math.sqrt(variances[0] / variances[1:].mean())
