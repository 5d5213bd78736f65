"""Standard errors of few measurements, and what they allow to say: Student's t with the freedom that they have."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

__all__ = ["ErrorBar", "joined", "of_one_more", "over_seeds"]


@dataclass(frozen=True)
class ErrorBar:
    """A standard error that was estimated itself."""

    stderr: float
    """In the unit of the figure."""
    freedom: float
    """Degrees of freedom of the estimate: k − 1 over k seeds; math.inf where the error is known."""

    def half_width(self, level: float) -> float:
        """Return the half width of the two-sided interval of this confidence: 4.30 errors at 95 % for three seeds."""
        return float(special.stdtrit(self.freedom, (1 + level) / 2)) * self.stderr

    def p_value(self, difference: float) -> float:
        """Return the two-sided p-value of a difference that has this error bar, if there is none in truth."""
        if not self.stderr:
            return float(difference == 0)
        return 2 * float(special.stdtr(self.freedom, -abs(difference) / self.stderr))

    def power(self, difference: float, level: float) -> float:
        """Return how surely a true difference comes out as one at this confidence, on its own side of zero.

        Exact for few degrees of freedom (the noncentral t distribution), where sums of quantiles promise too much.
        """
        # Imported here: it takes a second, and `special.nctdtr` is nan for some large differences.
        from scipy import stats

        if not self.stderr:
            return float(difference != 0)
        quantile = special.stdtrit(self.freedom, (1 + level) / 2)
        return float(stats.nct.sf(quantile, self.freedom, abs(difference) / self.stderr))


def over_seeds(deviation: float, seeds: int) -> ErrorBar:
    """Return the error bar of a mean over at least two seeds, from their standard deviation (ddof 1)."""
    return ErrorBar(deviation / math.sqrt(seeds), seeds - 1)


def of_one_more(deviation: float, seeds: int) -> ErrorBar:
    """Return the error bar of the difference between a mean over seeds and the figure of one seed more.

    s √(1 + 1/k), with k − 1 degrees of freedom: the prediction interval of a normal sample.
    """
    return ErrorBar(deviation * math.sqrt(1 + 1 / seeds), seeds - 1)


def joined(bars: Sequence[ErrorBar]) -> ErrorBar:
    """Return the error bar of a sum or difference of independent figures: √Σ stderr², by Welch and Satterthwaite.

    Its degrees of freedom are (Σ stderr²)² / Σ (stderr⁴ / freedom): those of the part that weighs most (Welch 1947).
    """
    variance = math.fsum(bar.stderr**2 for bar in bars)
    below = math.fsum(bar.stderr**4 / bar.freedom for bar in bars)
    return ErrorBar(math.sqrt(variance), variance**2 / below if below else math.inf)
