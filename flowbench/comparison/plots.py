"""Plots of many runs: which settings matter, how, and at what cost."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbench.comparison.entries import Entry, Field, differing
from flowbench.comparison.importance import importances
from flowbench.comparison.ranking import Ranking, pareto
from flowbench.figures.theme import new_figure, themed
from flowbench.report.formats import unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PLOTS", "WHY_ABSENT", "draw"]

MAX_KEYS = 8
"""Settings in one plot: more of them cannot be read."""
MAP = "viridis_r"
BEST = "#d55e00"
GREY = "#b0b0b0"


def draw(name: str, field: Field, ranking: Ranking) -> "Figure | None":
    """Draw one of `PLOTS`; None where the runs have nothing to show in it."""
    with themed():
        return PLOTS[name][1](field, ranking)


def _complete(field: Field) -> list[Entry]:
    return [entry for entry in field.entries if entry.value is not None]


def _keys(field: Field) -> list[str]:
    """Return the settings that differ, the important ones first."""
    complete = _complete(field)
    keys = differing(complete)
    weights = importances(complete, keys)
    return sorted(keys, key=lambda key: -weights.get(key, 0.0))[:MAX_KEYS]


class _Axis:
    """How the values of one setting are laid out: numbers by size (by logarithm if they span much), others by name."""

    def __init__(self, values: Sequence[Any]) -> None:
        known = [value for value in values if value is not None]
        self.numeric = bool(known) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)
        self.log = self.numeric and min(known) > 0 and max(known) / min(known) >= 30
        names = sorted({str(value) for value in known}, key=str)
        self.names = [] if self.numeric else names
        self.few = sorted(set(known)) if self.numeric and len(set(known)) <= 8 else []

    def place(self, value: Any) -> float:
        """Return where a value lies."""
        return float(value) if self.numeric else float(self.names.index(str(value)))

    def label(self, axis: Any) -> None:
        """Put scale and ticks on a matplotlib axis."""
        from matplotlib.ticker import NullLocator

        if self.log:
            axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        if self.few:
            axis.set_minor_locator(NullLocator())
            axis.set_ticks(self.few, [f"{value:g}" for value in self.few])
        elif self.names:
            axis.set_ticks(range(len(self.names)), [name[:16] for name in self.names])


def _parallel(field: Field, _: Ranking) -> "Figure | None":
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    complete, keys = _complete(field), _keys(field)
    if len(complete) < 3 or not keys:
        return None
    figure = new_figure(max(7.0, 2.8 + 1.5 * len(keys)), 3.2)
    axes = figure.subplots()
    values = [entry.value or 0.0 for entry in complete]
    colour = ScalarMappable(Normalize(min(values), max(values)), mpl.colormaps[MAP])
    columns = [*reversed(keys), None]
    lines = np.full((len(complete), len(columns)), np.nan)
    for place, key in enumerate(columns):
        mine: list[Any] = values if key is None else [entry.settings.get(key) for entry in complete]
        axis = _Axis(mine)
        known = [axis.place(value) for value in mine if value is not None]
        scale: Callable[[float], float] = np.log if axis.log and key is not None else float
        low, high = scale(min(known)), scale(max(known))
        for row, value in enumerate(mine):
            if value is not None:
                lines[row, place] = (scale(axis.place(value)) - low) / (high - low) if high > low else 0.5
        ticks: list[Any] = axis.names or axis.few or [min(known), max(known)]
        for tick in ticks:
            height = (scale(axis.place(tick)) - low) / (high - low) if high > low else 0.5
            words = f"{tick:.4g}" if isinstance(tick, int | float) else str(tick)[:14]
            axes.annotate(
                words, (place, height), (-4, 0), textcoords="offset points", ha="right", va="center", size=7, zorder=5,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
            )  # fmt: skip
        axes.axvline(place, color="#444444", linewidth=0.8, zorder=1)
    order = sorted(range(len(complete)), key=lambda row: -values[row])
    for row in order:
        best = row == order[-1]
        axes.plot(
            lines[row], color=BEST if best else colour.to_rgba(np.asarray(values))[row], linewidth=2.2 if best else 1.0,
            alpha=1.0 if best else 0.75, zorder=3 if best else 2,
        )  # fmt: skip
    names = [unit(field.metric) if key is None else _short(key) for key in columns]
    axes.set_xticks(range(len(columns)), names)
    axes.set(yticks=[], xlim=(-0.45, len(columns) - 0.85))
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    figure.colorbar(colour, ax=axes, label=unit(field.metric), pad=0.02)
    return figure


def _slices(field: Field, _: Ranking) -> "Figure | None":
    complete, keys = _complete(field), _keys(field)
    if len(complete) < 3 or not keys:
        return None
    columns = min(len(keys), 4)
    rows = -(-len(keys) // columns)
    figure = new_figure(max(6.4, 2.5 * columns), 2.7 * rows)
    grid = np.atleast_1d(figure.subplots(rows, columns, sharey=True, squeeze=False)).ravel()
    best = min(complete, key=lambda entry: entry.value or 0.0)
    for axes, key in zip(grid, keys, strict=False):
        mine = [entry for entry in complete if entry.settings.get(key) is not None]
        axis = _Axis([entry.settings[key] for entry in mine])
        places = [axis.place(entry.settings[key]) for entry in mine]
        axes.scatter(places, [entry.value for entry in mine], s=22, color="#0173b2", alpha=0.7, linewidth=0)
        if best in mine:
            axes.scatter(axis.place(best.settings[key]), best.value, s=46, color=BEST, zorder=3, label="best")
        axis.label(axes.xaxis)
        axes.set_xlabel(_short(key))
    for axes in grid[len(keys) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel(unit(field.metric))
    grid[0].legend(frameon=False, loc="best")
    return figure


def _contour(field: Field, _: Ranking) -> "Figure | None":
    complete = _complete(field)
    keys = _keys(field)[:2]
    mine = [entry for entry in complete if all(entry.settings.get(key) is not None for key in keys)]
    if len(keys) < 2 or len(mine) < 4:
        return None
    horizontal, vertical = (_Axis([entry.settings[key] for entry in mine]) for key in keys)
    figure = new_figure(4.8, 3.8)
    axes = figure.subplots()
    places = [
        [axis.place(entry.settings[key]) for entry in mine]
        for axis, key in zip((horizontal, vertical), keys, strict=True)
    ]
    values = [entry.value or 0.0 for entry in mine]
    if (horizontal.few or horizontal.names) and (vertical.few or vertical.names):
        _cells(axes, places, values, horizontal, vertical)
    else:
        _levels(axes, places, values, horizontal, vertical)
        horizontal.label(axes.xaxis)
        vertical.label(axes.yaxis)
    axes.set(xlabel=_short(keys[0]), ylabel=_short(keys[1]))
    axes.grid(visible=False)
    figure.colorbar(axes.collections[0], ax=axes, label=unit(field.metric))
    return figure


def _cells(axes: "Axes", places: Sequence[Sequence[float]], values: Sequence[float], *both: _Axis) -> None:
    """Draw means over the points of a grid, with their figures."""
    steps = [sorted(set(one)) for one in places]
    table = np.full((len(steps[1]), len(steps[0])), np.nan)
    for row, y in enumerate(steps[1]):
        for column, x in enumerate(steps[0]):
            here = [value for a, b, value in zip(*places, values, strict=True) if (a, b) == (x, y)]
            if here:
                table[row, column] = np.mean(here)
                # On the map's dark end, which are the high values, black could not be read.
                dark = np.mean(here) > (min(values) + max(values)) / 2
                axes.text(
                    column, row, f"{np.mean(here):.3f}", ha="center", va="center", size=9,
                    color="white" if dark else "black",
                )  # fmt: skip
    axes.pcolormesh(range(len(steps[0])), range(len(steps[1])), table, cmap=MAP, shading="nearest")
    for axis, one, its in zip((axes.xaxis, axes.yaxis), both, steps, strict=True):
        axis.set_ticks(range(len(its)), one.names or [f"{value:g}" for value in its])


def _levels(axes: "Axes", places: Sequence[Sequence[float]], values: Sequence[float], *both: _Axis) -> None:
    """Draw interpolated levels between scattered points, or the points alone where they lie on a line."""
    scaled = [np.log(one) if axis.log else np.asarray(one) for one, axis in zip(places, both, strict=True)]
    if min(np.ptp(one) for one in scaled) > 0 and len(set(zip(*places, strict=True))) >= 4:
        try:
            axes.tricontourf(places[0], places[1], values, levels=12, cmap=MAP)
        except (RuntimeError, ValueError):  # triangulation of points on one line
            axes.clear()
    axes.scatter(places[0], places[1], c=values, cmap=MAP, s=24, edgecolor="white", linewidth=0.7, zorder=3)


def _importance(field: Field, _: Ranking) -> "Figure | None":
    complete = _complete(field)
    weights = importances(complete, differing(complete))
    if not weights:
        return None
    shown = sorted(weights.items(), key=lambda one: one[1])[-MAX_KEYS:]
    figure = new_figure(4.8, max(2.2, 0.9 + 0.42 * len(shown)))
    axes = figure.subplots()
    bars = axes.barh([_short(key) for key, _ in shown], [weight for _, weight in shown], color="#0173b2", height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3, size=8)
    axes.set(xlabel=f"share of the variance of {unit(field.metric)} (fANOVA)", xlim=(0, 1.08))
    axes.grid(visible=False, axis="y")
    return figure


def _cost(field: Field, ranking: Ranking) -> "Figure | None":
    from matplotlib.ticker import EngFormatter, MaxNLocator

    costs = [("parameters", "parameters", True), ("flops", f"FLOPs per {field.unit[:-1]}", True)]
    costs.append(("speed", f"training, {field.unit}/s", False))
    shown = [one for one in costs if sum(group.cost(one[0]) is not None for group in ranking.groups) > 1]
    if not shown:
        return None
    figure = new_figure(3.3 * len(shown), 3.1)
    for axes, (what, label, lower) in zip(
        figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True
    ):
        groups = [group for group in ranking.groups if group.cost(what) is not None]
        xs, ys = [group.cost(what) or 0.0 for group in groups], [group.value for group in groups]
        front = pareto([(x if lower else -x, y) for x, y in zip(xs, ys, strict=True)])
        axes.errorbar(
            xs, ys, yerr=[group.deviation or 0.0 for group in groups], fmt="none", ecolor=GREY, elinewidth=1, zorder=1
        )  # fmt: skip
        colours = [BEST if on else "#0173b2" for on in front]
        axes.scatter(xs, ys, s=[42 if on else 20 for on in front], color=colours, zorder=3, linewidth=0)
        steps = sorted((x, y) for x, y, on in zip(xs, ys, front, strict=True) if on)
        axes.plot(
            *zip(*steps, strict=True), color=BEST, linewidth=1.2, drawstyle="steps-post" if lower else "steps-pre"
        )
        if min(xs) > 0 and max(xs) / min(xs) > 30:
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(label)
        axes.set_ylabel(unit(field.metric) if axes.get_subplotspec().is_first_col() else "")
    return figure


def _curves(field: Field, _: Ranking) -> "Figure | None":
    from matplotlib.ticker import MaxNLocator

    drawn = [entry for entry in field.entries if len(entry.curve) > 0]
    if not any(len(entry.curve) > 1 for entry in drawn):
        return None
    complete = [entry for entry in drawn if entry.value is not None]
    best = min(complete, key=lambda entry: entry.value or 0.0, default=None)
    figure = new_figure(6.4, 3.4)
    axes = figure.subplots()
    seen: set[str] = set()
    for entry in sorted(drawn, key=lambda one: one is best):
        kind = "best" if entry is best else "complete" if entry in complete else entry.state
        colour = {"best": BEST, "complete": "#0173b2"}.get(kind, GREY)
        steps, values = zip(*entry.curve, strict=True)
        axes.plot(
            steps, values, color=colour, linewidth=2.0 if entry is best else 0.9, alpha=1 if entry is best else 0.7,
            label=None if kind in seen else kind, linestyle="-" if kind in ("best", "complete") else "--",
        )  # fmt: skip
        if kind not in ("best", "complete"):
            axes.plot(steps[-1], values[-1], marker="x", color="#666666", markersize=5)
        seen.add(kind)
    late = [value for entry in drawn for _, value in entry.curve[len(entry.curve) // 4 :]]
    # Where trials were given up is seen too, but for the one in twenty that ran away.
    ends = np.quantile([entry.curve[-1][1] for entry in drawn], 0.95, method="lower")
    low, high = min(late), float(max(np.quantile(late, 0.95), ends))
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.15 * (high - low))
    axes.set(xlabel="training step", ylabel=f"{unit(field.metric)}, validation")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.legend(frameon=False)
    return figure


def _short(key: str) -> str:
    """Return a setting's name as an axis takes it: in two lines, section above."""
    return key.replace(".", ".\n", 1) if len(key) > 14 else key


PLOTS: Mapping[str, tuple[str, Callable[[Field, Ranking], "Figure | None"], bool]] = {
    "cost": ("Figure against cost; orange: the Pareto front (nothing is better in both)", _cost, True),
    "curves": ("Learning curves; a cross: pruned or failed there", _curves, True),
    "importance": ("Which settings matter (functional ANOVA over the finished runs)", _importance, False),
    "contour": ("The two settings that matter most together", _contour, False),
    "slices": ("Setting by setting", _slices, True),
    "parallel": ("Parallel coordinates: each line is a run, the best in orange", _parallel, True),
}
"""By name: what it shows, what draws it, whether it needs the page's whole width."""
WHY_ABSENT: Mapping[str, str] = {
    "cost": "figure against cost: the cost of fewer than two configurations is known",
    "curves": "learning curves: no run was validated more than once (train.validate_every, study.validations)",
    "importance": "importance: it takes five finished runs whose figures differ, and a setting that all of them have",
    "contour": "two settings together: it takes four finished runs and two settings that differ",
    "slices": "setting by setting: it takes three finished runs and a setting that differs",
    "parallel": "parallel coordinates: it takes three finished runs and a setting that differs",
}
"""By name: why a plot is not drawn where it is not."""
