"""What repeated timings tell: medians with intervals, ratios with intervals, and whether a slowdown is clear."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["RESAMPLES", "Samples", "interval", "ratio", "slowdown_p_value"]

RESAMPLES = 2000
_TRIM = 0.2
_SEED = 0

Samples = NDArray[np.float64]


def interval(samples: Samples) -> tuple[float, float, float]:
    """Return the median and its 95 % bootstrap interval (percentiles of 2,000 resampled medians)."""
    drawn = _resampled_medians(samples, np.random.default_rng(_SEED))
    return float(np.median(samples)), *_bounds(drawn)


def ratio(current: Samples, baseline: Samples) -> tuple[float, float, float]:
    """Return median(current) / median(baseline) and its 95 % bootstrap interval; repetitions are resampled whole."""
    generator = np.random.default_rng(_SEED)
    drawn = _resampled_medians(current, generator) / _resampled_medians(baseline, generator)
    return float(np.median(current) / np.median(baseline)), *_bounds(drawn)


def slowdown_p_value(current: Samples, baseline: Samples) -> float:
    """Return the one-sided p-value of "not slower", where larger samples are slower.

    Yuen's test (trimmed means, unequal variances) on logarithms: a fifth of the samples at each end is set aside, so
    that a neighbour on the machine who disturbs one repetition decides nothing.
    """
    if np.ptp(current) == 0 and np.ptp(baseline) == 0:
        return float(current[0] <= baseline[0])  # without any spread the difference itself is all there is to know
    result = stats.ttest_ind(np.log(current), np.log(baseline), equal_var=False, trim=_TRIM, alternative="greater")
    return float(result.pvalue)


def _resampled_medians(samples: Samples, generator: np.random.Generator) -> Samples:
    chosen = generator.integers(0, len(samples), (RESAMPLES, len(samples)))
    medians: Samples = np.median(samples[chosen], axis=1)
    return medians


def _bounds(drawn: Samples) -> tuple[float, float]:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
