"""The pictures of a forecaster of distributions: fans over history, sampled paths, and whether it is calibrated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowbench.densities.noise import step_seed
from flowbench.figures.kinds import Subject, figure_kind
from flowbench.figures.theme import color_of, entitle, new_figure, save, themed
from flowbench.forecasting.distribution import DistributionForecaster
from flowbench.forecasting.scores import SAMPLES, pit_of_samples, quantiles_of_samples

# Every training's pictures come by here: pandas and all that reads series are imported where they are used.
if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from flowbench.forecasting.windows import ForecastWindows

__all__ = ["draw_calibration", "draw_fan", "draw_paths", "draw_pit"]

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of a fan: the median between the central 50 and 90 %."""
PATHS = 8
HISTORY_ROWS = 72
MOST_WINDOWS = 400
"""Windows that calibration is drawn of, at most; they do not overlap."""
AT_ONCE = 32
BINS = 20
TRUTH = "#333333"

DrawColumn = Callable[["Axes", int, str], None]
"""Draws the forecast of one column, by its place, in a colour."""


@figure_kind("fan-chart", "distributions")
def draw_fan(subject: Subject) -> Path:
    """Draw a forecast of the test part as a fan over its history: the median, and the central 50 and 90 %."""
    window = _window(subject)
    quantiles = quantiles_of_samples(window.samples.movedim(0, -1), LEVELS).numpy()

    def draw(axes: "Axes", place: int, color: str) -> None:
        low, lower, median, upper, high = quantiles[:, :, place]
        axes.fill_between(window.dates, low, high, color=color, alpha=0.2, linewidth=0, label="90 %")
        axes.fill_between(window.dates, lower, upper, color=color, alpha=0.35, linewidth=0, label="50 %")
        axes.plot(window.dates, median, color=color, linewidth=1.3, label="median")

    return _draw_window(subject, window, "fan-chart.svg", "fan of a forecast of the test part", draw)


@figure_kind("sampled-paths", "distributions")
def draw_paths(subject: Subject) -> Path:
    """Draw some sampled futures of a window of the test part, each one draw of all steps and columns."""
    window = _window(subject)
    paths = window.samples[:PATHS].numpy()

    def draw(axes: "Axes", place: int, color: str) -> None:
        for number, path in enumerate(paths[:, :, place]):
            label = f"{len(paths)} sampled paths" if number == 0 else None
            axes.plot(window.dates, path, color=color, linewidth=0.8, alpha=0.6, label=label)

    return _draw_window(subject, window, "sampled-paths.svg", "sampled paths of a window of the test part", draw)


@figure_kind("pit-histogram", "distributions")
def draw_pit(subject: Subject) -> Path:
    """Draw where the truth of the test part lies in its distributions: a flat histogram is calibrated.

    Probability integral transform (Dawid 1984; Czado, Gneiting & Held 2009), of windows that do not overlap.
    """
    pit = _pit(subject)
    title = subject.title("PIT of the test part")
    with themed():
        figure = new_figure(6.4, 3.2)
        axes = figure.subplots()
        heights, edges = np.histogram(pit, bins=BINS, range=(0, 1), density=True)
        axes.bar(edges[:-1], heights, width=1 / BINS, align="edge", color=color_of(subject.experiment.model.name))
        axes.axhline(1, color=TRUTH, linestyle="--", linewidth=1, label="calibrated")
        axes.set(xlabel="place of the truth in its distribution", ylabel="density", xlim=(0, 1))
        axes.legend(frameon=False)
        entitle(figure, title)
        outside = float(((pit < 0.05) | (pit > 0.95)).mean())
        words = f"{title}: {outside:.1%} of the values lie in the two outer twentieths, 10 % if calibrated."
        return save(figure, subject.file("pit-histogram.svg"), words)


@figure_kind("calibration", "distributions")
def draw_calibration(subject: Subject) -> Path:
    """Draw the part of the test part's values that central intervals cover, over the part that they should."""
    pit = _pit(subject)
    levels = np.linspace(0.02, 0.98, 49)
    covered = [(np.abs(pit - 0.5) <= level / 2).mean() for level in levels]
    title = subject.title("coverage of central intervals, test part")
    with themed():
        figure = new_figure(4.6, 4.2)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=TRUTH, linestyle="--", linewidth=1, label="calibrated")
        axes.plot(levels, covered, color=color_of(subject.experiment.model.name), label=subject.experiment.model.name)
        axes.set(xlabel="nominal coverage", ylabel="observed coverage", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.legend(frameon=False, loc="upper left")
        entitle(figure, title)
        half, most = (float((np.abs(pit - 0.5) <= level / 2).mean()) for level in (0.5, 0.9))
        words = f"{title}: the central 50 % cover {half:.1%}, the central 90 % cover {most:.1%}."
        return save(figure, subject.file("calibration.svg"), words)


@dataclass(frozen=True, eq=False)
class _Window:
    """One window of the test part, in original units."""

    history: NDArray[np.float64]
    """(rows, outputs)."""
    truth: NDArray[np.float64]
    """(horizon, outputs)."""
    samples: Tensor
    """(n, horizon, outputs)."""
    before: "pd.DatetimeIndex"
    dates: "pd.DatetimeIndex"
    columns: Sequence[str]


def _window(subject: Subject) -> _Window:
    """Return the middle window of the test part."""
    config, opened = subject.experiment.data.tested, _opened(subject)
    windows, scaler = opened.splits["test"], opened.scaler.select(opened.targets)
    index = len(windows) // 2
    history, future = windows.batch(torch.tensor([index]))
    with torch.inference_mode():
        drawn = _model(subject).sample(history, SAMPLES, _generator(subject, 0))
    shown, first = min(HISTORY_ROWS, config.lookback), windows.first_origin + index
    past = _model(subject).targets(history)[0, -shown:]
    dates = opened.series.dates
    original = [scaler.unscale(part.double().cpu().numpy()) for part in (past, future[0], drawn[:, 0])]
    return _Window(
        original[0],
        original[1],
        torch.from_numpy(original[2]),
        dates[first - shown : first],
        dates[first : first + config.horizon],
        opened.targets,
    )


def _draw_window(subject: Subject, window: _Window, name: str, what: str, draw: DrawColumn) -> Path:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    title, color = subject.title(what), color_of(subject.experiment.model.name)
    with themed():
        figure = new_figure(9, 1.0 + 1.35 * len(window.columns))
        panels = figure.subplots(len(window.columns), 1, sharex=True, squeeze=False)[:, 0]
        for place, (axes, column) in enumerate(zip(panels, window.columns, strict=True)):
            axes.plot(window.before, window.history[:, place], color="#949494", linewidth=1, label="history")
            draw(axes, place, color)
            axes.plot(window.dates, window.truth[:, place], color=TRUTH, linewidth=1, label="truth")
            axes.set_ylabel(column)
        panels[0].legend(frameon=False, ncols=5, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0)
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        panels[-1].xaxis.set_major_locator(locator)
        panels[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        figure.suptitle(title, fontsize=10)
        return save(figure, subject.file(name), f"{title}: {', '.join(window.columns)}.")


def _pit(subject: Subject) -> NDArray[np.float64]:
    """Return the place of every value in its distribution, over windows of all the test part that do not overlap."""
    config, model = subject.experiment.data.tested, _model(subject)
    windows = _opened(subject).splits["test"]
    found = []
    apart = torch.arange(0, len(windows), config.horizon)
    number = min(len(apart), MOST_WINDOWS)
    chosen = apart[torch.arange(number) * len(apart) // number]
    for place, indices in enumerate(torch.split(chosen, AT_ONCE)):
        history, future = windows.batch(indices)
        generator = _generator(subject, 1 + place)
        with torch.inference_mode():
            drawn = model.sample(history, SAMPLES, generator).movedim(0, -1)
            found.append(pit_of_samples(drawn, future, generator).flatten().cpu())
    return torch.cat(found).numpy()


def _opened(subject: Subject) -> "ForecastWindows":
    """Return the windows of the file that is tested on, scaled as the training's were."""
    from flowbench.forecasting.windows import open_windows
    from flowbench.tasks.forecast import open_series, run_scaler

    config, scaler = subject.experiment.data.tested, run_scaler(subject.run.environment["data"])
    return open_windows(open_series(config), config, device=subject.device, scaler=scaler)


def _generator(subject: Subject, place: int) -> torch.Generator:
    return torch.Generator().manual_seed(step_seed("figures of distributions", subject.experiment.seed, place))


def _model(subject: Subject) -> DistributionForecaster:
    assert isinstance(subject.model, DistributionForecaster)
    return subject.model
