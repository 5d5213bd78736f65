"""Stored throughput as a part of a page: a table for each device, the cost over the floor, and its history."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from flowbench.figures.theme import color_of, new_figure, themed
from flowbench.report.page import slug
from flowbench.report.plot import Plot, save_plot
from flowbench.report.section import Place, Section
from flowbench.report.sheet import Cell, Column, Sheet, number_cell
from flowbench.throughput.files import key_of, read_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Measured", "is_throughput", "read_throughput", "throughput_section"]

MAX_LINES = 12
"""Series in one plot: more of them cannot be told apart."""
MARKERS = ("o", "^", "s", "D")
"""Of the passes, in the order of the file."""
LABEL_WIDTH = 40
"""Characters in a line beside the axes: overrides make names long."""


@dataclass(frozen=True)
class Measured:
    """One stored file of `flowbench throughput run`."""

    path: Path
    environment: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]

    @property
    def device(self) -> str:
        """The name of the device, with its threads where it is a processor."""
        name = str(self.environment.get("device_name") or self.environment.get("device") or "unknown device")
        threads = self.environment.get("threads")
        on_cpu = self.environment.get("device", "cpu") == "cpu"
        return f"{name}, {threads} thread{'s' if threads != 1 else ''}" if on_cpu and threads else name

    @property
    def passes(self) -> set[tuple[Any, ...]]:
        """What was measured: the keys of the results."""
        return {key_of(result) for result in self.results}

    @property
    def commit(self) -> str:
        """The short commit, or the file's name where none is known."""
        commit = self.environment.get("commit")
        return str(commit)[:7] if commit else self.path.stem


def is_throughput(path: Path) -> bool:
    """Say whether a path is a throughput file or a folder that holds some (not deeper than one level)."""
    return bool(_files(path))


def read_throughput(path: Path) -> list[Measured]:
    """Read a throughput file, or all of a folder in the order of their names.

    Raises:
        InputError: a file is not readable as one.
    """
    contents = {file: read_results(file) for file in _files(path)}
    return [Measured(file, content["environment"], content["results"]) for file, content in contents.items()]


def throughput_section(paths: Sequence[Path], place: Place, name: str = "throughput") -> Section:
    """Return the part of a page that shows stored throughput, and write its plots.

    Args:
        paths: files, folders of one device, or folders of such folders.
        place: the page.
        name: stem of the tables' files.
    """
    devices: dict[str, list[Measured]] = {}
    for measured in (one for path in paths for one in read_throughput(path)):
        devices.setdefault(measured.device, []).append(measured)
    parts, sheets = [], []
    for device, stored in devices.items():
        files = _by_commit(stored)
        stem = name if len(devices) == 1 else f"{name}-{slug(device)}"
        newest = files[-1]
        sheets.append(_sheet(newest, stem))
        plots = [
            _plot(_cost(newest), place, f"{stem}-cost", "Time of each pass over that of its own convolutions", device)
        ]
        if len(files) > 1:
            plots.append(_plot(_history(files), place, f"{stem}-history", "History over the stored commits", device))
        parts.append({"device": device, "sheet": sheets[-1], "plots": plots, "environment": newest.environment})
    title = "Throughput"
    description = (
        "Medians with their 95 % intervals. The floor ratio is the time of a pass divided by the time of its own "
        "convolutions alone, measured in alternation. Lower is better; 1 is the floor, and only a model that computes "
        "its convolutions in another way than torch passes below it."
    )
    content = {"parts": parts, "description": description}
    return Section("throughput", title, "section_throughput.html.j2", content, sheets)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in sorted([*path.glob("*.json"), *path.glob("*/*.json")]) if _looks_right(file)]
    return [path] if path.suffix == ".json" and path.is_file() and _looks_right(path) else []


def _looks_right(file: Path) -> bool:
    # Its own keys tell it from a run's result.json or a table's results.json, without reading all of it as JSON.
    with file.open(encoding="utf-8", errors="replace") as opened:
        text = opened.read(2_000_000)
    return '"floor_ratio"' in text and '"environment"' in text


def _by_commit(files: Sequence[Measured]) -> list[Measured]:
    """Put files together that follow each other and measured different passes of one commit."""
    joined: list[Measured] = []
    for file in files:
        before = joined[-1] if joined else None
        if before and before.commit == file.commit and not before.passes & file.passes:
            joined[-1] = replace(file, results=[*before.results, *file.results])
        else:
            joined.append(file)
    return joined


def _sheet(measured: Measured, name: str) -> Sheet:
    columns = [
        Column("Experiment"),
        Column("Pass"),
        Column("Batch", True),
        Column("Precision"),
        Column("Images/s", True),
    ]
    columns += [Column("Floor ratio", True), Column("Parameters", True), Column("MFLOP an image", True)]
    columns += [Column("Peak memory, MB", True)]
    rows = []
    order = list(dict.fromkeys(map(_model, measured.results)))
    # The precisions of a pass below each other, whatever the order of the files.
    passes = list(dict.fromkeys(entry["pass"] for entry in measured.results))
    for entry in sorted(measured.results, key=lambda one: (order.index(_model(one)), passes.index(one["pass"]))):
        compiled = ", compiled" if entry.get("compiled") else ""
        speed, ratio = entry["images_per_second"], entry.get("floor_ratio")
        flops, memory = entry.get("flops_per_image"), entry.get("peak_memory_bytes")
        rows.append(
            [
                Cell(entry["experiment"]),
                Cell(entry["pass"]),
                number_cell(entry["batch"], ",d"),
                Cell(f"{entry['precision']}{compiled}"),
                number_cell(speed["median"], ",.1f", note=_interval(speed, ",.1f"), strong=True),
                Cell("–") if ratio is None else number_cell(ratio["median"], ".2f", note=_interval(ratio, ".2f")),
                number_cell(entry.get("parameters"), ",d"),
                number_cell(None if flops is None else flops / 1e6, ",.1f"),
                number_cell(None if memory is None else memory / 1e6, ",.0f"),
            ]
        )
    caption = (
        f"{measured.device}, commit {measured.commit}: images/s (higher is better) and floor ratio (lower is better)."
    )
    return Sheet(name, caption, columns, rows)


def _interval(value: Mapping[str, Any], form: str) -> str:
    return f"{value['low']:{form}} to {value['high']:{form}}"


def _plot(drawing: "Figure", place: Place, stem: str, title: str, device: str) -> Plot:
    return save_plot(
        drawing, place.plots and place.plots / stem, page=place.folder, title=title, alt=f"{title}, on {device}"
    )


def _label(entry: Mapping[str, Any]) -> str:
    extra = f", {entry['precision']}" if str(entry["precision"]) != "32" else ""
    compiled = ", compiled" if entry.get("compiled") else ""
    return f"{entry['experiment']}, {entry['pass']}, batch {entry['batch']}{extra}{compiled}"


def _with_ratio(measured: Measured) -> list[Mapping[str, Any]]:
    return [entry for entry in measured.results if entry.get("floor_ratio")]


def _cost(measured: Measured) -> "Figure":
    """Draw a line for each model, its passes below each other, other precisions than float32 hollow."""
    from matplotlib.lines import Line2D

    entries = _with_ratio(measured)
    models = list(dict.fromkeys(_model(entry) for entry in entries))
    labels = [fill(model, LABEL_WIDTH, break_on_hyphens=False) for model in models]
    passes = list(dict.fromkeys(entry["pass"] for entry in entries))
    precisions = list(dict.fromkeys(str(entry["precision"]) for entry in entries))
    marks = dict(zip(passes, cycle(MARKERS), strict=False))
    lines = max((label.count("\n") + 1 for label in labels), default=1)
    with themed():
        drawing = new_figure(7.2, 1.3 + max(0.42, 0.16 + 0.16 * lines) * max(len(models), 1))
        axes = drawing.subplots()
        for entry in entries:
            place = models.index(_model(entry)) + (passes.index(entry["pass"]) - (len(passes) - 1) / 2) * 0.24
            ratio, color = entry["floor_ratio"], color_of(entry["experiment"].split("/")[0])
            filled = color if str(entry["precision"]) == "32" else "white"
            axes.plot([ratio["low"], ratio["high"]], [place, place], color=color, linewidth=1.5, solid_capstyle="round")
            axes.plot(ratio["median"], place, marks[entry["pass"]], color=color, markersize=5, markerfacecolor=filled)
        axes.axvline(1, color="#333333", linestyle="--", linewidth=1)
        axes.set_yticks(range(len(models)), labels)
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.set_xlim(left=0)
        # From the right end on: the names beside the axes may leave them too narrow for the words.
        axes.set_xlabel("floor ratio (1: the convolutions alone)", loc="right")
        shown = [(name, mark, "#333333") for name, mark in marks.items()]
        if precisions != ["32"]:
            shown += [
                ("float32" if one == "32" else one, "o", "#333333" if one == "32" else "white") for one in precisions
            ]
        handles = [
            Line2D([], [], linestyle="", marker=mark, color="#333333", markerfacecolor=fill_, label=name)
            for name, mark, fill_ in shown
        ]
        drawing.legend(handles=handles, frameon=False, fontsize="small", loc="outside lower center", ncols=len(handles))
    return drawing


def _model(entry: Mapping[str, Any]) -> str:
    return f"{entry['experiment']}, batch {entry['batch']}{', compiled' if entry.get('compiled') else ''}"


def _history(files: Sequence[Measured]) -> "Figure":
    series: dict[str, list[tuple[int, float]]] = {}
    families: dict[str, str] = {}
    for place, measured in enumerate(files):
        for entry in _with_ratio(measured):
            series.setdefault(_label(entry), []).append((place, entry["floor_ratio"]["median"]))
            families[_label(entry)] = entry["experiment"].split("/")[0]
    several = [label for label in series if len(series[label]) > 1] or list(series)
    longest = sorted(several, key=lambda label: -len(series[label]))[:MAX_LINES]
    styles = ("-", "--", ":", "-.")
    with themed():
        drawing = new_figure(7.2, 3.2 + 0.2 * len(longest))
        axes = drawing.subplots()
        for number, label in enumerate(longest):
            x, y = zip(*series[label], strict=True)
            axes.plot(x, y, styles[number % 4], marker="o", markersize=4, color=color_of(families[label]), label=label)
        axes.set_xticks(range(len(files)), [measured.commit for measured in files], rotation=45)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="commit", ylabel="floor ratio")
        drawing.legend(frameon=False, fontsize="small", loc="outside lower center")
    return drawing
