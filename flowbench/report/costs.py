"""What the figures of a table cost: a sheet of operations and times, and a picture of bits/dim against a sample's."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowbench.config.metric_words import BOUNDS
from flowbench.figures.theme import color_of, new_figure, themed
from flowbench.report.formats import mean, unit
from flowbench.report.plot import Plot, save_plot
from flowbench.report.section import Place
from flowbench.report.sheet import Cell, Column, Sheet, number_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cost_plots", "cost_sheet", "costed"]

PASSES = {"train": "training", "forward": "likelihood", "inverse": "sampling"}
MARKS = {"exact": "o"}
BOUND_MARK = "v"
"""Of everything but exact values: those lie at their mark or below it."""
ABOVE_MARK = 6  # matplotlib's caret that points up
"""Of a figure above the axis, drawn at its upper edge."""
HIGHEST = 2.0
"""In multiples of a panel's best figure: what lies above is not drawn to scale, or nothing else could be told apart."""


def costed(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows of a results.json whose costs were measured."""
    return [row for row in results["rows"] if row["status"] == "done" and row.get("costs")]


def cost_sheet(results: Mapping[str, Any], name: str) -> Sheet | None:
    """Return the sheet of the costs of a table; None where none were measured."""
    rows = costed(results)
    if not rows:
        return None
    columns = [Column("Row"), Column("Experiment"), Column("Ours", True, unit(rows[0]["metric"])), Column("Bound")]
    columns += [Column("Parameters", True), Column("Trained", True, "processor seconds")]
    columns += [Column(f"MFLOP, {word}", True) for word in PASSES.values()]
    columns += [Column(f"Images/s, {word}", True) for word in PASSES.values()]
    bounds = dict.fromkeys(str(row["labels"].get("bound", "")) for row in rows)
    told = "; ".join(f"{bound.replace('_', ' ')}: {BOUNDS[bound]}" for bound in BOUNDS if bound in bounds)
    machines = sorted({str(row["costs"]["environment"].get("device_name") or "an unnamed machine") for row in rows})
    caption = (
        f"{results.get('title') or results['table']}: what a figure costs. Operations are an image's in convolutions "
        f"and matrix products, 2 for a multiply-add; times are of one thread's own work on {', '.join(machines)}, at "
        f"the training batch size, the median of passes in alternation. {told}."
    )
    return Sheet(name, caption, columns, [_cells(row) for row in rows])


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    costs, bound = row["costs"], row["labels"].get("bound", "")
    passes = costs["passes"]
    flops = [passes[name]["flops_per_image"] / 1e6 if name in passes else None for name in PASSES]
    speeds = [passes[name]["images_per_second"]["median"] if name in passes else None for name in PASSES]
    return [
        Cell(row["row"]),
        Cell(row["experiment"]),
        Cell(mean(row), row["value"], strong=True),
        Cell(bound.replace("_", " ")),
        number_cell(costs["parameters"], ",d"),
        number_cell(costs["train_processor_seconds"], ",.0f"),
        *(number_cell(value, ",.1f") for value in flops),
        *(number_cell(value, ",.1f" if value is None or value < 100 else ",.0f") for value in speeds),
    ]


def cost_plots(results: Mapping[str, Any], place: Place, name: str) -> list[Plot]:
    """Return the picture of bits/dim against the time of a sample, and write its files; none without costs."""
    rows = [row for row in costed(results) if "inverse" in row["costs"]["passes"]]
    if not rows:
        return []
    title = (
        f"{unit(rows[0]['metric'])} against the processor time of a sample: circles are exact, triangles upper bounds, "
        "a caret lies far above the axis, hollow is a second line of one model"
    )
    words = "; ".join(
        f"{row['row']}, {row['experiment']}: {row['value']:.3f} ({row['labels'].get('bound', 'unnamed bound')}) at "
        f"{1e3 * _seconds(row):.3g} ms a sample"
        for row in rows
    )
    stem = place.plots and place.plots / f"{name}-sample-cost"
    with themed():
        drawing = sample_costs(rows)
    return [save_plot(drawing, stem, page=place.folder, title=title, alt=f"{title}. {words}.", wide=True)]


def sample_costs(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw a panel for each row title, best figure first in its legend.

    Circles are exact values, triangles bounds, each with its error bar; hollow is a second line of the same model; a
    caret at the upper edge is a figure far above the others.
    """
    titles = list(dict.fromkeys(row["row"] for row in rows))
    figure = new_figure(6.4 * len(titles), 4.2)
    for number, title in enumerate(titles, 1):
        axes = figure.add_subplot(1, len(titles), number)
        mine = sorted((row for row in rows if row["row"] == title), key=lambda row: float(row["value"]))
        highest = HIGHEST * mine[0]["value"]
        top = max(row["value"] for row in mine if row["value"] <= highest)
        seen: set[str] = set()
        for row in mine:
            bound, above = row["labels"].get("bound", ""), row["value"] > highest
            axes.errorbar(
                1e3 * _seconds(row),
                top if above else row["value"],
                yerr=None if above else row["stderr"],
                marker=ABOVE_MARK if above else MARKS.get(bound, BOUND_MARK),
                linestyle="",
                color=color_of(row["model"]),
                markerfacecolor="none" if row["model"] in seen else None,
                markersize=8,
                label=f"{row['value']:.3f}  {row['experiment']}",
            )
            seen.add(row["model"])
        axes.set_xscale("log")
        axes.margins(x=0.1)
        measure = unit(mine[0]["metric"])
        axes.set(title=title, xlabel="processor time of a sample, ms", ylabel=f"{measure} (lower is better)")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)
    return figure


def _seconds(row: Mapping[str, Any]) -> float:
    return 1 / float(row["costs"]["passes"]["inverse"]["images_per_second"]["median"])
