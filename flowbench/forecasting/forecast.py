"""Forecasts with dates: the next horizon after a file's end, and block after block through a second file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowbench.densities.modes import evaluating
from flowbench.densities.noise import step_seed
from flowbench.errors import InputError
from flowbench.forecasting.distribution import DistributionForecaster
from flowbench.forecasting.forecaster import Forecaster
from flowbench.forecasting.protocol import Scaler
from flowbench.forecasting.scores import SAMPLES, quantiles_of_samples
from flowbench.forecasting.series import Series

__all__ = ["Wanted", "forecast_mae", "forecast_next", "forecast_rolling", "frame_of"]

AT_ONCE = 32
"""Blocks of a rolling forecast whose paths are drawn together."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a forecast beside its mean.

    Raises:
        InputError: no quantile lies between 0 and 1, one stands twice, or so few paths say nothing of it.
    """

    samples: int = 0
    """Paths of each block."""
    quantiles: tuple[float, ...] = ()
    """Levels; of the paths, or where none are asked for of 99; exact where the model has a closed form."""
    seed: int = 0
    """Of the paths."""

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise InputError(f"--samples {self.samples}: 1 or more")
        # Columns are called by six digits of a level.
        if len({f"{level:g}" for level in self.quantiles}) < len(self.quantiles):
            raise InputError(f"--quantiles {', '.join(f'{level:g}' for level in self.quantiles)}: one stands twice")
        for level in self.quantiles:
            if not 0 < level < 1:
                raise InputError(f"--quantiles {level:g}: between 0 and 1, such as 0.05,0.5,0.95")

    def check(self, forecaster: Forecaster) -> None:
        """Raise InputError where a forecaster cannot give it."""
        if not (self.samples or self.quantiles):
            return
        if not isinstance(forecaster, DistributionForecaster):
            raise InputError(
                "--samples and --quantiles: this model forecasts points; etth/gaussian, etth/empirical, "
                "etth/nlinear-flow and etth/lstm-flow forecast distributions"
            )

    def check_paths(self) -> None:
        """Raise InputError where a quantile lies beyond the lowest or the highest of the paths that it is taken of."""
        paths = self.samples or SAMPLES
        for level in self.quantiles:
            needed = math.ceil(1 / min(level, 1 - level) - 1e-9) - 1
            if needed > paths:
                raise InputError(
                    f"--quantiles {level:g}: {paths} paths do not tell it: give --samples {needed} or more"
                )


def forecast_next(
    forecaster: Forecaster, series: Series, scaler: Scaler, wanted: Wanted | None = None
) -> pd.DataFrame:  # fmt: skip
    """Forecast the horizon that follows the last row.

    Args:
        forecaster: a trained model.
        series: its last `lookback` rows are the history; columns may stand in any order.
        scaler: of the model's input columns in the model's order, fitted on the training file.
        wanted: what is given beside the mean; None: nothing.

    Returns:
        A frame of `horizon` rows: `date`, continued at the file's step (after a month's end the next month's), the
        truth by column (unknown here: NaN), `<column>_forecast`, then what was wanted: quantiles as
        `<column>_q<level>`, paths as `<column>_path<number>` from 1, a path being one draw of all steps and columns.
        Original units.

    Raises:
        InputError: too few rows, a missing column, or quantiles and paths of a model of points.
    """
    shape = forecaster.shape
    chosen = _chosen(series, scaler, shape.lookback)
    dates = pd.date_range(chosen.dates[-1], periods=shape.horizon + 1, freq=chosen.step)[1:]
    truth = np.full((shape.horizon, shape.outputs), np.nan)
    histories = chosen.values[-shape.lookback :][None]
    return _frame(forecaster, histories, scaler, wanted or Wanted(), dates, truth)


def forecast_rolling(
    forecaster: Forecaster, series: Series, scaler: Scaler, wanted: Wanted | None = None
) -> pd.DataFrame:  # fmt: skip
    """Walk through a file in blocks of the horizon, each fed by the `lookback` true rows before it, by nothing later.

    The first `lookback` rows are history only; the last block is cut at the file's end, so that every later row has a
    forecast. Paths go from the first to the last row of a block; those of the next block begin anew. Arguments, frame
    and errors: as `forecast_next`, with the truth.
    """
    shape = forecaster.shape
    chosen = _chosen(series, scaler, shape.lookback + 1)
    origins = range(shape.lookback, len(chosen), shape.horizon)
    histories = np.stack([chosen.values[origin - shape.lookback : origin] for origin in origins])
    truth = chosen.values[shape.lookback :, -shape.outputs :]
    return _frame(forecaster, histories, scaler, wanted or Wanted(), chosen.dates[shape.lookback :], truth)


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


def _frame(
    forecaster: Forecaster,
    histories: NDArray[np.float64],
    scaler: Scaler,
    wanted: Wanted,
    dates: pd.DatetimeIndex,
    truth: NDArray[np.float64],
) -> pd.DataFrame:
    """Return the frame of blocks that follow one another, cut at the last date."""
    wanted.check(forecaster)
    columns = scaler.columns[-forecaster.shape.outputs :]
    targets = scaler.select(columns)
    first = next(iter(forecaster.parameters()), torch.empty(0))
    normalized = torch.from_numpy(scaler.scale(histories)).to(device=first.device, dtype=first.dtype)
    with evaluating(forecaster), torch.inference_mode():
        mean = torch.cat([forecaster(batch) for batch in torch.split(normalized, 256)])
        beside: dict[str, list[Tensor]] = {}
        if isinstance(forecaster, DistributionForecaster) and (wanted.samples or wanted.quantiles):
            for place, batch in enumerate(torch.split(normalized, AT_ONCE)):
                for name, values in _beside(forecaster, batch, wanted, place).items():
                    beside.setdefault(name, []).append(values)

    def rows(values: Tensor) -> NDArray[np.float64]:
        return targets.unscale(values.flatten(0, 1)[: len(dates)].double().cpu().numpy())

    return frame_of(dates, truth, rows(mean), columns, {name: rows(torch.cat(parts)) for name, parts in beside.items()})


def _beside(forecaster: DistributionForecaster, past: Tensor, wanted: Wanted, place: int) -> dict[str, Tensor]:
    """Return quantiles and paths of a batch of blocks by the ends of their names, (blocks, horizon, outputs) each."""
    generator = torch.Generator().manual_seed(step_seed("forecast paths", wanted.seed, place))
    normal = forecaster.normal(past) if wanted.quantiles else None
    drawn = wanted.samples or (SAMPLES if wanted.quantiles and normal is None else 0)
    paths = forecaster.sample(past, drawn, generator) if drawn else past.new_empty(0)
    found: dict[str, Tensor] = {}
    if normal is not None:
        mean, deviation = normal
        for level in wanted.quantiles:
            found[f"q{level:g}"] = mean + deviation * torch.special.ndtri(torch.tensor(level, dtype=mean.dtype))
    elif wanted.quantiles:
        wanted.check_paths()
        levels = quantiles_of_samples(paths.movedim(0, -1), wanted.quantiles)
        found |= {f"q{level:g}": values for level, values in zip(wanted.quantiles, levels, strict=True)}
    return found | {f"path{number}": path for number, path in enumerate(paths[: wanted.samples], 1)}


def frame_of(
    dates: pd.DatetimeIndex,
    truth: NDArray[np.float64],
    future: NDArray[np.float64],
    columns: Sequence[str],
    beside: Mapping[str, NDArray[np.float64]] | None = None,
) -> pd.DataFrame:
    """Return a frame of `date`, truth (rows, columns) by column, and the forecast, alike, as `<column>_forecast`.

    What lies beside it, alike, follows as `<column>_<name>`.

    Raises:
        InputError: one of these names is a column's own.
    """
    if "date" in columns:
        raise InputError("column date: holds numbers, and the forecast has its dates there: rename it and train again")
    named: dict[str, pd.DatetimeIndex | NDArray[np.float64]] = {"date": dates}
    named |= {column: truth[:, i] for i, column in enumerate(columns)}
    for name, values in {"forecast": future, **(beside or {})}.items():
        made = {f"{column}_{name}": values[:, i] for i, column in enumerate(columns)}
        if taken := named.keys() & made.keys():
            raise InputError(
                f"column {min(taken)}: is called as the forecast of another one would be: rename it in the file and "
                "train again"
            )
        named |= made
    return pd.DataFrame(named)
