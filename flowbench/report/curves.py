"""A run's training curves, from its `metrics.jsonl`; the seeds of one experiment in one plot."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowbench.figures.theme import color_of, new_figure, themed
from flowbench.report.formats import unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curve_keys", "training_curves"]

Metrics = Sequence[Mapping[str, Any]]


def curve_keys(runs: Sequence[Metrics], metric: str) -> list[str]:
    """Return what `training_curves` draws of runs' metrics: of training and of validation; nothing: no curve.

    The metric itself, or what a training logs in its place: a density its likelihood, another forecaster its MAE.
    """
    for name in (metric, "nll", "mae", "loss"):
        if any(row.get(f"train/{name}") is not None for run in runs for row in run):
            return [f"train/{name}", f"validation/{name}"]
    return []


def training_curves(runs: Sequence[Metrics], metric: str, model: str) -> "Figure | None":
    """Draw the metric over the steps: training (raw and smoothed) and, where it was measured, validation.

    Args:
        runs: for each seed the rows of its metrics, with `step`, `train/<metric>` or `train/loss`, and
            `validation/<metric>`.
        metric: the table's metric.
        model: its colour is the model's.
    Returns:
        The drawing, or None where there is nothing to draw.
    """
    keys = curve_keys(runs, metric)
    if not keys:
        return None
    key = keys[0].removeprefix("train/")
    from matplotlib.ticker import MaxNLocator

    with themed():
        drawing = new_figure(6.4, 3.2)
        axes = drawing.subplots()
        shown: list[float] = []
        for place, run in enumerate(runs):
            shown += _draw_run(axes, run, key, model, first=place == 0, alone=len(runs) == 1)
        # The first steps are far off and would flatten everything after them.
        late = sorted(shown)
        if len(late) > 20 and late[-1] > late[0]:
            margin = 0.05 * (late[-1] - late[0])
            axes.set_ylim(late[0] - margin, late[-1] + margin)
        axes.set(xlabel="training step", ylabel=unit(key))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        # Above the curves, never over them.
        axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0)
    return drawing


def _draw_run(axes: "Axes", run: Metrics, key: str, model: str, *, first: bool, alone: bool) -> list[float]:
    """Draw one seed's curves and return the values that the axis has to hold."""
    import pandas as pd
    import seaborn

    train, validation, color = _series(run, f"train/{key}"), _series(run, f"validation/{key}"), color_of(model)
    smooth = pd.Series(train[1], dtype=float).ewm(span=max(2, len(train[1]) // 20)).mean().to_numpy()
    if alone:
        seaborn.lineplot(x=train[0], y=train[1], ax=axes, color=color, alpha=0.3, linewidth=0.8)
    label = "train, smoothed" if alone else "train, smoothed, each seed"
    dot = "o" if len(train[0]) == 1 else None  # a line through one point draws nothing
    seaborn.lineplot(
        x=train[0], y=smooth, ax=axes, color=color, linewidth=1.5, marker=dot, label=label if first else None
    )
    if validation[0]:
        seaborn.lineplot(
            x=validation[0], y=validation[1], ax=axes, color="#333333", linestyle="--", linewidth=1.2,
            marker="o", markersize=4, label="validation" if first else None,
        )  # fmt: skip
    return train[1][len(train[1]) // 20 :] + validation[1]


def _series(metrics: Metrics, key: str) -> tuple[list[int], list[float]]:
    points = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]
