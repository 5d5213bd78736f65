"""MAE and MSE over every window, and the scores of distributions, by step and column, accumulated in float64."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowbench.densities.modes import evaluating
from flowbench.densities.noise import step_seed
from flowbench.errors import WorkFailedError
from flowbench.forecasting.constant_runs import ConstantRuns
from flowbench.forecasting.distribution import DistributionForecaster
from flowbench.forecasting.forecaster import Forecaster
from flowbench.forecasting.protocol import Scaler
from flowbench.forecasting.scores import SAMPLES, Scores, score
from flowbench.forecasting.windows import Windows

__all__ = ["ForecastErrors", "mae_under", "measure", "measure_nll", "metrics", "nll_under"]

SCORED_AT_ONCE = 32
"""Windows whose samples share a generator: figures depend on which windows are measured, and on nothing else."""


@dataclass(frozen=True, eq=False)
class ForecastErrors:
    """Errors on normalized values."""

    absolute: NDArray[np.float64]
    """Mean over windows of |ŷ − y|, (horizon, outputs)."""
    squared: NDArray[np.float64]
    """Mean over windows of (ŷ − y)², (horizon, outputs)."""
    per_window: NDArray[np.float64]
    """Of each window in order, (windows, len(columns)): MAE, MSE, and of a distribution its scores."""
    columns: tuple[str, ...] = ("mae", "mse")
    """What is kept of each window, by metric."""
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Means over windows, (horizon, outputs), by metric: see `Scores.by_value`; empty without a distribution."""
    crps_error: float | None = None
    """Standard error of the mean CRPS over draws of the samples; None: exact, or no distribution."""
    runs: ConstantRuns | None = None
    """Where the truth is stuck; None: nowhere."""
    free: NDArray[np.float64] | None = None
    """With `runs`: mean |ŷ − y| over the windows whose future touches none of them, (outputs,); NaN: there are none."""


def measure(forecaster: Forecaster, windows: Windows, batch_size: int = 256, seed: int = 0) -> ForecastErrors:
    """Forecast every window, the last incomplete batch included, in evaluation mode.

    Args:
        forecaster: any; of one of distributions the errors are the mean's, and the scores are measured too.
        windows: of a split.
        batch_size: windows at once; of distributions always 32.
        seed: of the samples, where scores need any.

    Raises:
        WorkFailedError: a forecast is not finite.
    """
    sums = _Sums(windows.runs)
    with evaluating(forecaster), torch.inference_mode():
        for forecast, scored, future in _forecasts(forecaster, windows, batch_size, seed):
            sums.add((forecast - future).double(), scored)
    return sums.errors()


class _Sums:
    """Sums over windows, batch after batch.

    Args:
        runs: where the truth is stuck, of all windows in order; None: nowhere.
    """

    def __init__(self, runs: ConstantRuns | None) -> None:
        self._runs = runs
        self._absolute = self._squared = self._free = torch.zeros((), dtype=torch.float64)
        self._scores: dict[str, torch.Tensor] = {}
        self._crps_variance: float | None = None
        self._per_window: list[torch.Tensor] = []
        self._windows = 0

    def add(self, error: torch.Tensor, scored: Scores | None) -> None:
        """Take in the next windows: forecast - truth, (batch, horizon, outputs), float64; scores of a distribution."""
        absolute, squared = error.abs(), error.square()
        self._absolute = self._absolute + absolute.sum(dim=0).cpu()
        self._squared = self._squared + squared.sum(dim=0).cpu()
        by_value = {} if scored is None else scored.by_value
        for name, values in by_value.items():
            self._scores[name] = self._scores.get(name, 0) + values.sum(dim=0).cpu()
        if scored is not None and scored.crps_variance is not None:
            self._crps_variance = (self._crps_variance or 0.0) + float(scored.crps_variance.sum())
        kept = [values.mean(dim=(1, 2)) for values in (absolute, squared, *by_value.values())]
        self._per_window.append(torch.stack(kept, dim=1).cpu())
        if self._runs is not None:
            free = torch.from_numpy(self._runs.free[self._windows : self._windows + len(error)])
            self._free = self._free + (absolute.mean(dim=1).cpu() * free).sum(dim=0)
        self._windows += len(error)

    def errors(self) -> ForecastErrors:
        """Return the means.

        Raises:
            WorkFailedError: a forecast is not finite.
        """
        values = torch.cat(self._per_window).numpy()
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            raise WorkFailedError(f"the forecast of window {int(wrong[0, 0])} is not finite")
        n = self._windows
        return ForecastErrors(
            self._absolute.numpy() / n,
            self._squared.numpy() / n,
            values,
            ("mae", "mse", *self._scores),
            {name: total.numpy() / n for name, total in self._scores.items()},
            None if self._crps_variance is None else math.sqrt(self._crps_variance) / n,
            self._runs,
            None if self._runs is None else self._free_of_runs(self._runs),
        )

    def _free_of_runs(self, runs: ConstantRuns) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # 0 / 0: no window without a run
            mean: NDArray[np.float64] = self._free.numpy() / runs.free.sum(axis=0)
        return mean


def _forecasts(
    forecaster: Forecaster, windows: Windows, batch_size: int, seed: int
) -> Iterator[tuple[torch.Tensor, Scores | None, torch.Tensor]]:
    """Yield forecast, scores (of a distribution) and future of every window, batch after batch."""
    if not isinstance(forecaster, DistributionForecaster):
        for history, future in windows.in_order(batch_size):
            yield forecaster(history), None, future
        return
    for place, (history, future) in enumerate(windows.in_order(SCORED_AT_ONCE)):
        generator = torch.Generator().manual_seed(step_seed("forecast samples", seed, place))
        scored = score(forecaster, history, future, generator)
        yield scored.mean, scored, future


def measure_nll(forecaster: DistributionForecaster, windows: Windows, batch_size: int = 256) -> float:
    """Return the negative log-likelihood of every window in evaluation mode, in nats a value."""
    total = 0.0
    with evaluating(forecaster), torch.inference_mode():
        for history, future in windows.in_order(batch_size):
            total -= float(forecaster.log_prob(future, history).double().sum())
    return total / (len(windows) * forecaster.shape.horizon * forecaster.shape.outputs)


def metrics(errors: ForecastErrors, scaler: Scaler, unit: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the metrics of one split as `result.json` has them.

    Args:
        errors: on normalized values.
        scaler: of the outputs' columns, in order: original units are its std times the normalized ones.
        unit: the original unit of all outputs. Without one no mean over them is given: it would add kW to degrees.
    """
    std, n = np.array(scaler.std), len(errors.per_window)
    found: dict[str, dict[str, Any]] = {}
    for name, error, scale, what in (
        ("mae", errors.absolute, std, unit),
        ("mse", errors.squared, std**2, _square(unit)),
    ):
        found[name] = {
            "value": float(error.mean()),
            "stderr": None,
            "n": n,
            "per_step": error.mean(axis=1).tolist(),
            "per_column": dict(zip(scaler.columns, error.mean(axis=0).tolist(), strict=True)),
        }
        original = error * scale
        found[f"{name}_original"] = {
            "value": None if what is None else float(original.mean()),
            "stderr": None,
            "n": n,
            "unit": what,
            "per_column": dict(zip(scaler.columns, original.mean(axis=0).tolist(), strict=True)),
        }
    if errors.scores:
        found |= _scores(errors, scaler.columns)
    if errors.runs is not None and errors.free is not None:
        found["mae_without_stuck"] = _without_stuck(errors.runs, errors.free, scaler.columns)
    return found


def _scores(errors: ForecastErrors, columns: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return the metrics of a distribution; `nll` in nats a value, without a density null."""
    found: dict[str, dict[str, Any]] = {}
    for name in ("nll", *(name for name in errors.scores if name != "nll")):
        values = errors.scores.get(name)
        found[name] = {
            "value": None if values is None else float(values.mean()),
            "stderr": None,
            "n": len(errors.per_window),
            "per_step": None if values is None else values.mean(axis=1).tolist(),
            "per_column": None if values is None else dict(zip(columns, values.mean(axis=0).tolist(), strict=True)),
        }
        if name != "nll":
            found[name]["samples"] = None if errors.crps_error is None else SAMPLES
    found["crps"]["monte_carlo_error"] = errors.crps_error
    return found


def mae_under(errors: ForecastErrors, scaler: Scaler, other: Scaler) -> dict[str, Any]:
    """Return the MAE that another scaler of the same columns would have given: Σ |error| std / std_other."""
    error = errors.absolute * (np.array(scaler.std) / np.array(other.std))
    per_column = dict(zip(scaler.columns, error.mean(axis=0).tolist(), strict=True))
    return {"value": float(error.mean()), "stderr": None, "n": len(errors.per_window), "per_column": per_column}


def nll_under(errors: ForecastErrors, scaler: Scaler, other: Scaler) -> dict[str, Any]:
    """Return the NLL that another scaler of the same columns would have given, in nats a value.

    nll + log(std / std_other): a value y of this scaler is a y + b of the other one, a = std / std_other, and the
    density of a y + b is that of y divided by a.
    """
    values = errors.scores["nll"] + np.log(np.array(scaler.std) / np.array(other.std))
    per_column = dict(zip(scaler.columns, values.mean(axis=0).tolist(), strict=True))
    return {"value": float(values.mean()), "stderr": None, "n": len(errors.per_window), "per_column": per_column}


def _without_stuck(runs: ConstantRuns, free: NDArray[np.float64], columns: tuple[str, ...]) -> dict[str, Any]:
    """Return the MAE over the windows, column by column, whose future touches no constant run in that column."""
    known = np.isfinite(free)
    return {
        "value": float(free[known].mean()) if known.any() else None,
        "stderr": None,
        "n": len(runs.free),
        "per_column": {name: float(x) if np.isfinite(x) else None for name, x in zip(columns, free, strict=True)},
        "windows": dict(zip(columns, runs.free.sum(axis=0).tolist(), strict=True)),
        "constant_share": {name: share for name, share in zip(columns, runs.share.tolist(), strict=True) if share > 0},
    }


def _square(unit: str | None) -> str | None:
    return None if unit is None else f"{unit}²" if unit.isalpha() else f"({unit})²"
