"""MAE and MSE over every window, by step and column, accumulated in float64."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowbench.errors import WorkFailedError
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


def measure(forecaster: Forecaster, windows: Windows, batch_size: int = 256) -> ForecastErrors:
    """Forecast every window, the last incomplete batch included, in evaluation mode.

    Raises:
        WorkFailedError: a forecast is not finite.
    """
    absolute = squared = torch.zeros((), dtype=torch.float64)
    per_window = []
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
    finally:
        forecaster.train(was_training)
    values = torch.cat(per_window).numpy()
    if not np.isfinite(values).all():
        raise WorkFailedError(f"the forecast of window {int(np.argwhere(~np.isfinite(values))[0, 0])} is not finite")
    return ForecastErrors(absolute.numpy() / len(values), squared.numpy() / len(values), values)


def metrics(errors: ForecastErrors, scaler: Scaler) -> dict[str, dict[str, Any]]:
    """Return the metrics of one split as `result.json` has them.

    Args:
        errors: on normalized values.
        scaler: of the outputs' columns, in order: original units are its std times the normalized ones.
    """
    std, n = np.array(scaler.std), len(errors.per_window)
    found: dict[str, dict[str, Any]] = {}
    for name, error, unit in (("mae", errors.absolute, std), ("mse", errors.squared, std**2)):
        found[name] = {
            "value": float(error.mean()),
            "stderr": None,
            "n": n,
            "per_step": error.mean(axis=1).tolist(),
            "per_column": dict(zip(scaler.columns, error.mean(axis=0).tolist(), strict=True)),
        }
        found[f"{name}_original"] = {"value": float((error * unit).mean()), "stderr": None, "n": n}
    return found


def mae_under(errors: ForecastErrors, scaler: Scaler, other: Scaler) -> float:
    """Return the MAE that another scaler of the same columns would have given: Σ |error| std / std_other."""
    return float((errors.absolute * (np.array(scaler.std) / np.array(other.std))).mean())
