"""Forecasts with dates: the next horizon after a file's end, and block after block through a second file."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from flowbench.errors import InputError
from flowbench.forecasting.forecaster import Forecaster
from flowbench.forecasting.protocol import Scaler
from flowbench.forecasting.series import Series

__all__ = ["forecast_mae", "forecast_next", "forecast_rolling", "frame_of"]


def forecast_next(forecaster: Forecaster, series: Series, scaler: Scaler) -> pd.DataFrame:
    """Forecast the horizon that follows the last row.

    Args:
        forecaster: a trained model.
        series: its last `lookback` rows are the history; columns may stand in any order.
        scaler: of the model's input columns in the model's order, fitted on the training file.

    Returns:
        A frame of `horizon` rows: `date`, continued at the file's step (after a month's end the next month's), the
        truth by column (unknown here: NaN), `<column>_forecast`, original units.
    """
    shape = forecaster.shape
    chosen = _chosen(series, scaler, shape.lookback)
    future = _forecast(forecaster, chosen.values[-shape.lookback :][None], scaler)[0]
    dates = pd.date_range(chosen.dates[-1], periods=shape.horizon + 1, freq=chosen.step)[1:]
    return frame_of(dates, np.full_like(future, np.nan), future, scaler.columns[-shape.outputs :])


def forecast_rolling(forecaster: Forecaster, series: Series, scaler: Scaler) -> pd.DataFrame:
    """Walk through a file in blocks of the horizon, each fed by the `lookback` true rows before it, by nothing later.

    The first `lookback` rows are history only; the last block is cut at the file's end, so that every later row has a
    forecast. Arguments and frame: as `forecast_next`, with the truth.
    """
    shape = forecaster.shape
    chosen = _chosen(series, scaler, shape.lookback + 1)
    origins = range(shape.lookback, len(chosen), shape.horizon)
    histories = np.stack([chosen.values[origin - shape.lookback : origin] for origin in origins])
    known = len(chosen) - shape.lookback
    future = _forecast(forecaster, histories, scaler).reshape(-1, shape.outputs)[:known]
    truth = chosen.values[shape.lookback :, -shape.outputs :]
    return frame_of(chosen.dates[shape.lookback :], truth, future, scaler.columns[-shape.outputs :])


def forecast_mae(frame: pd.DataFrame, scaler: Scaler) -> tuple[float, dict[str, float]]:
    """Return the MAE, normalized by the scaler, over the frame's rows whose truth is known, and in original units.

    Returns:
        The mean over all columns of the normalized error; by column, the error in that column's own unit.

    Raises:
        InputError: no row has a known truth.
    """
    columns = [column for column in scaler.columns if f"{column}_forecast" in frame]
    truth = frame[columns].to_numpy()
    error = np.abs(frame[[f"{column}_forecast" for column in columns]].to_numpy() - truth)
    error = error[np.isfinite(truth).all(axis=1)]
    if len(error) == 0:
        raise InputError("the truth of this forecast is not known yet: there is no MAE")
    std = np.array(scaler.select(tuple(columns)).std)
    return float((error / std).mean()), dict(zip(columns, error.mean(axis=0).tolist(), strict=True))


def _chosen(series: Series, scaler: Scaler, needed: int) -> Series:
    if len(series) < needed:
        raise InputError(f"{series.path}: {len(series)} rows, but the model needs {needed} (data.lookback) to forecast")
    return series.select(scaler.columns)


def _forecast(forecaster: Forecaster, histories: NDArray[np.float64], scaler: Scaler) -> NDArray[np.float64]:
    """Forecast histories (blocks, lookback, inputs) in original units: (blocks, horizon, outputs)."""
    targets = scaler.select(scaler.columns[-forecaster.shape.outputs :])
    first = next(iter(forecaster.parameters()), torch.empty(0))
    normalized = torch.from_numpy(scaler.scale(histories)).to(first)
    was_training = forecaster.training
    forecaster.eval()
    try:
        with torch.inference_mode():
            future = torch.cat([forecaster(batch) for batch in torch.split(normalized, 256)])
    finally:
        forecaster.train(was_training)
    return targets.unscale(future.double().cpu().numpy())


def frame_of(
    dates: pd.DatetimeIndex, truth: NDArray[np.float64], future: NDArray[np.float64], columns: tuple[str, ...]
) -> pd.DataFrame:
    """Return a frame of `date`, truth (rows, columns) by column, and the forecast, alike, as `<column>_forecast`."""
    named: dict[str, pd.DatetimeIndex | NDArray[np.float64]] = {"date": dates}
    named |= {column: truth[:, i] for i, column in enumerate(columns)}
    named |= {f"{column}_forecast": future[:, i] for i, column in enumerate(columns)}
    return pd.DataFrame(named)
