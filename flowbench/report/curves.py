"""A run's training curves, from its `metrics.jsonl`."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from flowbench.figures.theme import color_of, themed
from flowbench.report.formats import unit

__all__ = ["training_curves"]


def training_curves(metrics: Sequence[Mapping[str, Any]], metric: str, model: str) -> bytes | None:
    """Draw the metric over the steps as SVG: training (raw and smoothed) and, where it was measured, validation.

    Args:
        metrics: rows with `step`, `train/<metric>` or `train/loss`, and `validation/<metric>`.
        metric: the table's metric.
        model: its colour is the model's.
    Returns:
        The SVG, or None where there is nothing to draw.
    """
    key = next(
        (name for name in (metric, "loss") if any(row.get(f"train/{name}") is not None for row in metrics)), None
    )
    if key is None:
        return None
    import pandas as pd
    import seaborn

    train = _series(metrics, f"train/{key}")
    validation = _series(metrics, f"validation/{key}")
    color = color_of(model)
    with themed():
        from flowbench.figures.theme import new_figure

        drawing = new_figure(6.4, 3.2)
        axes = drawing.subplots()
        smooth = pd.Series(train[1]).ewm(span=max(2, len(train[1]) // 20)).mean().to_numpy()
        seaborn.lineplot(x=train[0], y=train[1], ax=axes, color=color, alpha=0.3, linewidth=0.8)
        seaborn.lineplot(x=train[0], y=smooth, ax=axes, color=color, label="train, smoothed")
        if validation[0]:
            seaborn.lineplot(
                x=validation[0], y=validation[1], ax=axes, color="#333333", linestyle="--", marker="o", markersize=4,
                label="validation",
            )  # fmt: skip
        # The first steps are far off and would flatten everything after them.
        late = sorted(train[1][len(train[1]) // 20 :] + validation[1])
        if len(late) > 20 and late[-1] > late[0]:
            margin = 0.05 * (late[-1] - late[0])
            axes.set_ylim(late[0] - margin, late[-1] + margin)
        axes.set(xlabel="training step", ylabel=unit(key) if key == metric else "loss")
        axes.legend(frameon=False)
        target = io.BytesIO()
        drawing.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    points = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]
