"""Runs side by side: what differs between their settings, and what each gave."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowbench.report.formats import figure, unit
from flowbench.report.sheet import Cell, Column, Sheet, number_cell
from flowbench.report.verdict import flat_settings
from flowbench.runs.comparable import forecasts_of
from flowbench.runs.folder import RunFolder

__all__ = ["comparison_sheet"]

_NO_SETTINGS = ("name", "preset", "tune.", "study.", "train.log_every", "train.checkpoint_every")


def comparison_sheet(rows: Sequence[Mapping[str, Any]], name: str) -> Sheet | None:
    """Return a table of runs, best first, with a column for each setting that is not the same in all of them.

    Args:
        rows: entries of a results.json, each of one run, whose path is relative to the working folder.
        name: stem of the table's files.
    Returns:
        None where there are fewer than two runs, or no setting differs, or their figures are not of the same thing.
    """
    done = [row for row in rows if row["status"] == "done"]
    runs = [RunFolder(Path(row["runs"][0])) for row in done]
    if len(done) < 2 or len({_figure_of(row, run) for row, run in zip(done, runs, strict=True)}) > 1:
        return None
    settings = [flat_settings(run.experiment) | _prepared(row) for run, row in zip(runs, done, strict=True)]
    keys = [key for key in dict.fromkeys(key for one in settings for key in one) if _differs(key, settings)]
    if not keys:
        return None
    metric, items = done[0]["metric"], "windows" if runs[0].experiment.kind == "forecast" else "images"
    columns = [Column("Run"), Column(unit(metric), True), *(Column(key, _numeric(key, settings)) for key in keys)]
    columns += [Column("Parameters", True), Column(f"Training, {items}/s", True)]
    lines: list[list[Cell]] = []
    for row, run, of_run in sorted(zip(done, runs, settings, strict=True), key=lambda line: line[0]["value"]):
        result = run.result
        speed = result.get("throughput", {}).get(f"train_{items}_per_second")
        cells = [Cell(row["runs"][0]), Cell(figure(row), row["value"], strong=not lines)]
        cells += [Cell(_words(of_run.get(key)), of_run.get(key) if _numeric(key, settings) else None) for key in keys]
        lines.append([*cells, number_cell(result.get("parameters"), ",d"), number_cell(speed, ",.1f")])
    caption = (
        f"What differs between these runs, best {unit(metric)} ({done[0]['split']}) first; all other settings agree."
    )
    return Sheet(name, caption, columns, lines)


def _figure_of(row: Mapping[str, Any], run: RunFolder) -> tuple[Any, ...]:
    """Return what a figure is of: only figures of the same thing have an order."""
    labels = row["labels"]
    return (
        row["metric"],
        row["split"],
        row["dataset"],
        labels.get("levels"),
        labels.get("limited"),
        *forecasts_of(run),
    )


def _prepared(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the images were resized: no setting of the experiment, but two figures may differ by it alone."""
    return {"resample": row["labels"]["resample"]} if "resample" in row["labels"] else {}


def _differs(key: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    chosen = any(key == name or (name.endswith(".") and key.startswith(name)) for name in _NO_SETTINGS)
    return not chosen and len({repr(one.get(key)) for one in settings}) > 1


def _numeric(key: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    values = [one.get(key) for one in settings if one.get(key) is not None]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _words(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
