"""MAE and MSE over every window, by step and column, accumulated in float64."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowbench.errors import WorkFailedError
from flowbench.forecasting.constant_runs import ConstantRuns
from flowbench.forecasting.forecaster import Forecaster
from flowbench.forecasting.protocol import Scaler
from flowbench.forecasting.windows import Windows

__all__ = ["ForecastErrors", "mae_under", "measure", "metrics"]


@dataclass(frozen=True, eq=False)
class ForecastErrors:
    """Errors on normalized values."""

    absolute: NDArray[np.float64]
    """Mean over windows of |ŷ − y|, (horizon, outputs)."""
    squared: NDArray[np.float64]
    """Mean over windows of (ŷ − y)², (horizon, outputs)."""
    per_window: NDArray[np.float64]
    """MAE and MSE of each window in order, (windows, 2)."""
    runs: ConstantRuns | None = None
    """Where the truth is stuck; None: nowhere."""
    free: NDArray[np.float64] | None = None
    """With `runs`: mean |ŷ − y| over the windows whose future touches none of them, (outputs,); NaN: there are none."""


def measure(forecaster: Forecaster, windows: Windows, batch_size: int = 256) -> ForecastErrors:
    """Forecast every window, the last incomplete batch included, in evaluation mode.

    Raises:
        WorkFailedError: a forecast is not finite.
    """
    absolute = squared = without = torch.zeros((), dtype=torch.float64)
    per_window: list[torch.Tensor] = []
    runs, first = windows.runs, 0
    was_training = forecaster.training
    forecaster.eval()
    try:
        with torch.inference_mode():
            for history, future in windows.in_order(batch_size):
                error = (forecaster(history) - future).double()
                absolute = absolute + error.abs().sum(dim=0).cpu()
                squared = squared + error.square().sum(dim=0).cpu()
                per_window.append(
                    torch.stack((error.abs().mean(dim=(1, 2)), error.square().mean(dim=(1, 2))), dim=1).cpu()
                )
                if runs is not None:
                    counted = torch.from_numpy(runs.free[first : first + len(error)])
                    without = without + (error.abs().mean(dim=1).cpu() * counted).sum(dim=0)
                    first += len(error)
    finally:
        forecaster.train(was_training)
    values = torch.cat(per_window).numpy()
    if not np.isfinite(values).all():
        raise WorkFailedError(f"the forecast of window {int(np.argwhere(~np.isfinite(values))[0, 0])} is not finite")
    free = None
    if runs is not None:
        with np.errstate(invalid="ignore"):  # 0 / 0: no window without a run
            free = without.numpy() / runs.free.sum(axis=0)
    return ForecastErrors(absolute.numpy() / len(values), squared.numpy() / len(values), values, runs, free)


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
    if errors.runs is not None and errors.free is not None:
        found["mae_without_stuck"] = _without_stuck(errors.runs, errors.free, scaler.columns)
    return found


def mae_under(errors: ForecastErrors, scaler: Scaler, other: Scaler) -> dict[str, Any]:
    """Return the MAE that another scaler of the same columns would have given: Σ |error| std / std_other."""
    error = errors.absolute * (np.array(scaler.std) / np.array(other.std))
    per_column = dict(zip(scaler.columns, error.mean(axis=0).tolist(), strict=True))
    return {"value": float(error.mean()), "stderr": None, "n": len(errors.per_window), "per_column": per_column}


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
