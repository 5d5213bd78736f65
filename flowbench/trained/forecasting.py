"""A trained forecaster at work: the horizon after a file's end, or block after block through a second file."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flowbench.config.registry import series_sets
from flowbench.errors import InputError
from flowbench.evaluation.measuring import stem_of
from flowbench.figures.forecasts import draw_forecast
from flowbench.forecasting.forecast import Wanted, forecast_mae, forecast_next, forecast_rolling
from flowbench.forecasting.forecaster import Forecaster
from flowbench.forecasting.protocol import Scaler
from flowbench.forecasting.series import Series, read_series
from flowbench.runs.folder import RunFolder
from flowbench.runs.same_data import check_same_data
from flowbench.system.atomic import replacing
from flowbench.tasks.forecast import open_known, open_series, run_scaler, step_notes
from flowbench.tasks.loading import load_run, stopped_at

__all__ = ["Forecasted", "Work", "forecast_run", "forecast_with"]

SHOWN_ROWS = 1_000
"""Rows of a rolling forecast that its plot shows, from the end: more cannot be told apart."""


@dataclass(frozen=True)
class Forecasted:
    """What a forecast left behind."""

    csv: Path
    """Dates, truth where known, `<column>_forecast`, then quantiles and paths that were asked for; original units."""
    plot: Path
    rows: int
    mae: float | None
    """On values normalized by the training's scaler; None: nothing of it has come true yet."""
    mae_original: float | None
    """Mean over the columns; None: `data.unit` declares no unit that they have in common."""
    mae_per_column: dict[str, float]
    """Each in its column's own unit; empty: nothing of it has come true yet."""
    unit: str | None
    notes: list[str]
    """What must be said beside it."""
    stopped: str | None
    """Where the training was stopped, if it has not come to its end."""


@dataclass(frozen=True)
class Work:
    """A forecast, and what it was made of."""

    frame: pd.DataFrame
    """See `forecast_next`."""
    series: Series
    model: Forecaster
    scaler: Scaler


def forecast_with(
    run: RunFolder,
    data: str | None = None,
    *,
    rolling: bool = False,
    samples: int = 0,
    quantiles: Sequence[float] = (),
) -> Work:
    """Forecast with a run's model; nothing is written. Arguments and errors as in `forecast_run`."""
    experiment = run.experiment
    if experiment.kind != "forecast":
        raise InputError(f"{run.path}: a {experiment.kind} run does not forecast: flowbench figures draws its samples")
    if data is None:
        check_same_data(run)
    trained = run.environment["data"]
    series = open_series(experiment.data) if data is None else _read(data, experiment.data.date, trained.get("step"))
    model, scaler = load_run(run.path), run_scaler(trained)
    assert isinstance(model, Forecaster)
    wanted = Wanted(samples, tuple(quantiles), experiment.seed)
    return Work((forecast_rolling if rolling else forecast_next)(model, series, scaler, wanted), series, model, scaler)


def forecast_run(
    run: RunFolder,
    data: str | None = None,
    *,
    rolling: bool = False,
    samples: int = 0,
    quantiles: Sequence[float] = (),
) -> Forecasted:
    """Forecast with a run's model, and write a CSV and a plot into its folder.

    Args:
        run: of a forecast experiment.
        data: a CSV file with the training file's columns, or a known set; None: the file of the training.
        rolling: walk over the file in blocks of the horizon, each fed by the true rows before it; else forecast the
            rows that follow the file's end.
        samples: paths drawn of each block, for a forecaster of distributions; they follow from the run's seed.
        quantiles: levels between 0 and 1, likewise: see `Wanted`.

    Raises:
        InputError: a density run, a missing file or column, a file that is too short, the run's own with other bytes;
            samples or quantiles of a forecaster of points.
    """
    done = forecast_with(run, data, rolling=rolling, samples=samples, quantiles=quantiles)
    frame, series, model, scaler = done.frame, done.series, done.model, done.scaler
    experiment, trained = run.experiment, run.environment["data"]
    foreign = series.sha256 != trained["fingerprint"]
    name = f"{'rolling' if rolling else 'next'}-{stem_of(series.path.stem, series.sha256 if foreign else None)}"
    csv = run.path / "forecasts" / f"{name}.csv"
    with replacing(csv) as temporary:
        frame.to_csv(temporary, index=False)
    known = np.isfinite(frame.drop(columns="date").to_numpy()).all()
    mae, per_column = forecast_mae(frame, scaler) if known else (None, {})
    what = "rolling forecast" if rolling else f"the {len(frame)} rows after the end"
    stopped = stopped_at(run)
    error = "" if mae is None else f", MAE {mae:.4f}"
    error += "" if stopped is None else f" ({stopped})"
    plot = draw_forecast(
        frame.tail(SHOWN_ROWS),
        run.figures / f"forecast-{name}.svg",
        f"{experiment.name}, seed {experiment.seed}: {what} of {series.path.name}{error}",
        experiment.model.name,
        None if rolling else _history(series, scaler, model),
    )
    unit = experiment.data.unit
    original = statistics.fmean(per_column.values()) if unit is not None and per_column else None
    notes = [*series.notes, *step_notes(trained, series), *scaler.notes]
    if rolling and not foreign:
        notes.append("most of these rows are those that it was trained on: its error on new ones is larger (evaluate)")
    return Forecasted(
        csv, plot, len(frame), mae, original, per_column, unit, notes, None if stopped is None else str(stopped)
    )


def _read(data: str, date: str | None, step: str | None) -> Series:
    return open_known(data) if data in series_sets else read_series(data, date=date, step=step)


def _history(series: Series, scaler: Scaler, model: Forecaster) -> pd.DataFrame:
    columns = scaler.columns[-model.shape.outputs :]
    chosen, tail = series.select(columns), slice(-model.shape.lookback, None)
    return pd.DataFrame(chosen.values[tail], index=chosen.dates[tail], columns=list(columns))
