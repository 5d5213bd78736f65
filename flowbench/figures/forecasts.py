"""The pictures of a forecaster: how it was trained, and what it says beside what came.

They are the weekly report's, with its slips mended: the test curve shows whole forecasts, not the first step of each
window, and the fit on the training part is drawn in the order of time.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from flowbench.figures.kinds import NotDrawableError, Subject, figure_kind
from flowbench.figures.theme import color_of, new_figure, save, themed

# A density's pictures need none of it: pandas and all that reads series are imported where they are used.
if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from flowbench.forecasting.forecaster import Forecaster
    from flowbench.forecasting.protocol import Scaler, Split
    from flowbench.forecasting.windows import Windows

__all__ = ["draw_forecast", "draw_loss_per_epoch", "draw_next_window", "draw_test", "draw_training_fit"]

ROWS = 336
"""Rows of a file that a picture shows: two weeks of hours."""
TRUTH = "#333333"


@figure_kind("loss-per-epoch", "forecast")
def draw_loss_per_epoch(subject: Subject) -> Path:
    """Draw the mean training loss of each epoch and the validation's MSE (of a density its NLL) after it."""
    import pandas as pd
    from matplotlib.ticker import MaxNLocator

    rows = pd.DataFrame(subject.run.metrics())
    if "train/loss" not in rows:
        raise NotDrawableError("this model is fitted without training steps")
    # A row stands for the steps before it: the one at an epoch's very end belongs to that epoch.
    ends = rows.loc[rows["epoch"] > rows["epoch"].shift(fill_value=0)].index
    rows.loc[ends.intersection(rows[rows["train/loss"].notna()].index), "epoch"] -= 1
    # Epochs in which nothing was logged are bridged.
    loss = rows.groupby("epoch")["train/loss"].mean().dropna()
    epochs = rows["epoch"].nunique()
    title = subject.title("training loss per epoch")
    with themed():
        figure = new_figure(7, 3.2)
        axes = figure.subplots()
        color = color_of(subject.experiment.model.name)
        axes.plot(loss.index + 1, loss.to_numpy(), marker="o", markersize=4, color=color, label="training")
        loss_name = "nll" if "validation/nll" in rows else getattr(subject.experiment.model, "loss", "mse")
        what = "NLL, nats a value" if loss_name == "nll" else f"{loss_name.upper()} on normalized values"
        validated = f"validation/{loss_name}"
        if validated in rows:
            seen = rows.dropna(subset=[validated])
            axes.plot(
                np.arange(1, len(seen) + 1) if len(seen) == epochs else seen["epoch"],
                seen[validated], marker="o", markersize=4, color=TRUTH, linestyle="--", label="validation",
            )  # fmt: skip
        axes.set(xlabel="epoch", ylabel=what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        # Above the curves, never over them.
        axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0)
        figure.suptitle(title)
        return save(figure, subject.file("loss-per-epoch.svg"), f"{title}; {what}.")


@figure_kind("test-forecast", "forecast")
def draw_test(subject: Subject) -> Path:
    """Draw forecasts of the test part, one after another, beside the truth."""
    return _draw_part(subject, "test", "test-forecast.svg", "test part, truth and forecast")


@figure_kind("training-fit", "forecast")
def draw_training_fit(subject: Subject) -> Path:
    """Draw forecasts of the training part, in the order of time, beside the truth."""
    return _draw_part(subject, "train", "training-fit.svg", "fit on the training part")


@figure_kind("next-window", "forecast")
def draw_next_window(subject: Subject) -> Path:
    """Draw the forecast of the horizon that follows the file's last row."""
    import pandas as pd

    from flowbench.forecasting.forecast import forecast_next
    from flowbench.tasks.forecast import open_series, run_scaler

    series = open_series(subject.experiment.data)
    scaler = run_scaler(subject.run.environment["data"])
    frame = forecast_next(_forecaster(subject), series, scaler)
    targets = [column for column in scaler.columns if f"{column}_forecast" in frame]
    shown = series.select(targets)
    tail = slice(-min(len(shown), max(subject.experiment.data.lookback, ROWS // 2)), None)
    history = pd.DataFrame(shown.values[tail], index=shown.dates[tail], columns=targets)
    title = subject.title(f"the {len(frame)} rows after the file's end")
    return draw_forecast(frame, subject.file("next-window.svg"), title, subject.experiment.model.name, history)


def draw_forecast(
    frame: "pd.DataFrame", path: Path, title: str, model: str, history: "pd.DataFrame | None" = None
) -> Path:
    """Draw history, truth (where it is known) and forecast, one panel for each column.

    Args:
        frame: `date`, the truth by column, `<column>_forecast`, in original units; a band is drawn between quantiles
            `<column>_q<level>` at equal distances from the median.
        path: of the picture.
        title: of the picture.
        model: its name, for its colour.
        history: values by date before the forecast, with the forecast's columns.
    """
    columns = [str(column) for column in frame if f"{column}_forecast" in frame]
    with themed():
        figure = new_figure(9, 1.0 + 1.35 * len(columns))
        panels = figure.subplots(len(columns), 1, sharex=True, squeeze=False)[:, 0]
        for axes, column in zip(panels, columns, strict=True):
            if history is not None:
                axes.plot(history.index, history[column], color="#949494", linewidth=1, label="history")
            _draw_column(axes, frame, column, model)
        panels[0].legend(frameon=False, ncols=6, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0)
        panels[-1].tick_params(axis="x", rotation=0)
        _concise_dates(panels[-1])
        figure.suptitle(title, fontsize=10)
        return save(figure, path, f"{title}: truth and forecast of {', '.join(columns)}.")


def _draw_column(axes: "Axes", frame: "pd.DataFrame", column: str, model: str) -> None:
    dates = frame["date"]
    if frame[column].notna().any():
        axes.plot(dates, frame[column], color=TRUTH, linewidth=1, label="truth")
    color = color_of(model)
    levels = sorted(float(name.removeprefix(f"{column}_q")) for name in map(str, frame) if _is_quantile(name, column))
    for low in (level for level in levels if level < 0.5):
        high = next((level for level in levels if math.isclose(level, 1 - low)), None)
        if high is not None:
            below, above = (frame[f"{column}_q{level:g}"] for level in (low, high))
            label = f"{100 * (high - low):g} %"
            axes.fill_between(dates, below, above, color=color, alpha=0.25, linewidth=0, label=label)
    axes.plot(dates, frame[f"{column}_forecast"], color=color, linewidth=1.3, label="forecast")
    axes.set_ylabel(column)


def _is_quantile(name: str, column: str) -> bool:
    return name.startswith(f"{column}_q0.")


def _concise_dates(axes: "Axes") -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _draw_part(subject: Subject, split: "Split", name: str, what: str) -> Path:
    from flowbench.forecasting.windows import open_windows
    from flowbench.tasks.forecast import open_series, run_scaler

    config = subject.experiment.data.tested if split == "test" else subject.experiment.data
    series = open_series(config)
    scaler = run_scaler(subject.run.environment["data"])
    opened = open_windows(series, config, device=subject.device, scaler=scaler)
    windows = opened.splits[split]
    # Forecasts that follow one another without a gap or an overlap; at least one, however long it is.
    starts = range(0, min(len(windows), max(ROWS - config.horizon, 0) + 1), config.horizon)
    frame = _blocks(_forecaster(subject), windows, starts, opened.series.dates, scaler.select(opened.targets))
    title = subject.title(what)
    return draw_forecast(frame, subject.file(name), title, subject.experiment.model.name)


def _blocks(
    model: "Forecaster", windows: "Windows", starts: Sequence[int], dates: "pd.DatetimeIndex", scaler: "Scaler"
) -> "pd.DataFrame":
    from flowbench.forecasting.forecast import frame_of

    history, future = windows.batch(torch.tensor(list(starts)))
    with torch.inference_mode():
        forecast = model(history)
    rows = len(starts) * future.shape[1]
    known, said = (scaler.unscale(part.reshape(rows, -1).double().cpu().numpy()) for part in (future, forecast))
    first = windows.first_origin + starts[0]
    return frame_of(dates[first : first + rows], known, said, scaler.columns)


def _forecaster(subject: Subject) -> "Forecaster":
    from flowbench.forecasting.forecaster import Forecaster

    assert isinstance(subject.model, Forecaster)
    return subject.model
