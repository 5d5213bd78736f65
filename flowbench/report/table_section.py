"""A results file as a part of a page: the table beside the published figures, and a card for each line of it."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flowbench.errors import FlowbenchError
from flowbench.report.costs import cost_plots, cost_sheet
from flowbench.report.forest import forests
from flowbench.report.formats import (
    constant_runs,
    difference,
    figure,
    labels,
    mean,
    models,
    peer_figure,
    peers,
    published_figure,
    records,
    rerun_figure,
    spread,
    unit,
)
from flowbench.report.gallery import gallery
from flowbench.report.page import slug
from flowbench.report.plot import Plot, embed, save_plot
from flowbench.report.section import Place, Section
from flowbench.report.sheet import Cell, Column, Sheet, number_cell
from flowbench.report.verdict import details, shortfall, verdict
from flowbench.runs.folder import RunFolder
from flowbench.runs.kept import kept_file
from flowbench.system.progress import counted

__all__ = ["table_section"]

SPARSE = 0.5
"""Part of the published figures of a table that must be there for each model to have a column."""
MOST_COLUMNS = 5
"""Of figures of others, beside ours."""
_FACTS = {
    "parameters": "Parameters",
    "steps": "Steps",
    "epochs": "Epochs",
    "train_seconds": "Training, seconds",
    "device": "Device",
    "precision": "Precision",
    "data_status": "Data",
    "data_fingerprint": "Data fingerprint",
    "config_sha256": "Config SHA-256",
    "mlflow_run_id": "MLflow run",
    "notes": "Notes",
}


@dataclass(frozen=True)
class _Shared:
    """Where runs were made, or of which data, in words: it stands once, however many lines share it."""

    anchor: str
    title: str
    words: Mapping[str, str]


@dataclass
class _Line:
    """What the page shows of one line: the row, its runs (one for each seed), their pictures."""

    row: Mapping[str, Any]
    anchor: str
    runs: list[dict[str, Any]]
    verdict: str = ""
    details: str = ""
    config: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, _Shared] = field(default_factory=dict)
    curves: Plot | None = None
    pictures: list[Plot] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def table_section(results: Mapping[str, Any], *, base: Path, place: Place, name: str = "table") -> Section:
    """Return the part of a page that shows a table, and write its drawings.

    Args:
        results: the content of a results.json.
        base: the folder that the runs' paths in `results` are relative to.
        place: the page.
        name: stem of the table's files.
    """
    lines = _lines(results, base, place)
    rows = results["rows"]
    content = {
        "lines": lines,
        "plots": cost_plots(results, place, slug(results["table"])),
        "forests": forests([(line.row, line.anchor if line.runs else None) for line in lines]),
        "shared": {
            "Run on": _share(lines, "Run on", slug(results["table"]), _machine),
            "Trained on": _share(lines, "Trained on", slug(results["table"]), _data),
        },
        "missing": _missing(rows),
        "notes": list(dict.fromkeys(note for row in rows if (note := row.get("note")))),
        "description": results.get("description") or "",
        "badges": list(dict.fromkeys(badge for line in lines for badge in _badges(line.row))),
        "figure": figure,
        "labels": labels,
        "unit": unit,
        "constant_runs": constant_runs,
        "row_badges": _badges,
    }
    title = results.get("title") or results["table"]
    costs = cost_sheet(results, f"{name}-costs")
    sheets, galleries = [_sheet(results, lines, name), *([costs] if costs else [])], [line.pictures for line in lines]
    return Section(slug(results["table"]), title, "section_table.html.j2", content, sheets, galleries)


def _sheet(results: Mapping[str, Any], lines: Sequence[_Line], name: str) -> Sheet:
    names = models(results)
    known = sum(published_figure(row, model) != "–" for row in results["rows"] for model in names)
    again = any(rerun_figure(row) for row in results["rows"])
    # Columns that are mostly empty, or too many for a page, are one instead.
    together = known < SPARSE * len(names) * len(results["rows"]) or len(names) + again > MOST_COLUMNS
    metrics = {row["metric"] for row in results["rows"]}
    compared = any(difference(row) is not None for row in results["rows"])
    columns = [Column("Row"), Column("Experiment"), Column("Ours", True, " and ".join(map(unit, sorted(metrics))))]
    columns += [Column("Published")] if together else [Column(model, True, "published") for model in names]
    columns += [Column("Run again", True, "their program today")] if again else []
    columns += [Column("Difference", True, "ours − published")] if compared else []
    beside = peers(results)
    columns += [Column(model, True, "measured here") for model in beside]
    # Where nothing was published, one sentence says it once, in the caption.
    judged = any(line.row["published"] for line in lines)
    columns += [Column("Verdict")] if judged or any(line.details for line in lines) else []
    cells = [_cells(line, names, beside, together, again, compared)[: len(columns)] for line in lines]
    return Sheet(name, _caption(results), columns, cells, records(results))


def _caption(results: Mapping[str, Any]) -> str:
    sources = sorted({entry["source"] for row in results["rows"] for entry in row["published"]})
    words = f"{results.get('title') or results['table']}: ours ± standard error over test items"
    if sources:
        words += f", beside published figures ({'; '.join(sources)})"
    entries = [entry for row in results["rows"] for entry in row["published"]]
    again = sorted({_program(entry["rerun"]) for entry in entries if entry.get("rerun")})
    if again:
        words += f", and the authors' own programs run again ({'; '.join(again)})"
    if any(entry["split"] == "train" for entry in entries):
        words += "; training figures in parentheses"
    if any(entry["bound"] == "<" for entry in entries):
        words += "; < marks an upper bound"
    measured = sorted({_peer(peer) for row in results["rows"] for peer in row.get("peers", ())})
    if measured:
        words += f", beside other libraries' models, measured on the same windows ({'; '.join(measured)})"
    if not entries:
        words += "; there are no published figures to stand beside them"
    return f"{words}. Lower is better."


def _program(rerun: Mapping[str, Any]) -> str:
    return f"{rerun['source']}, {rerun['version']}, seed {rerun['seed']}"


def _peer(peer: Mapping[str, Any]) -> str:
    seeds = f"seed{'s' * (len(peer['seeds']) > 1)} {', '.join(map(str, peer['seeds']))}"
    return f"{peer['model']}: {peer['version']}, {peer['source']}, {seeds}"


def _cells(
    line: _Line, names: Sequence[str], beside: Sequence[str], together: bool, again: bool, compared: bool
) -> list[Cell]:
    row = line.row
    count = f", n = {row['n']:,}" if row["n"] else ""
    over_seeds = f"; {spread(row)}" if spread(row) else ""
    link = f"#{line.anchor}" if row["runs"] else None
    cells = [
        Cell(row["row"]),
        Cell(row["experiment"], href=link, note=labels(row)),
        Cell(mean(row), row["value"], f"{row['split']}{count}{over_seeds}", link, _badges(row), strong=True),
    ]
    figures = {model: published_figure(row, model) for model in names}
    if together:
        cells.append(Cell(", ".join(f"{model} {text}" for model, text in figures.items() if text != "–")))
    for model, text in () if together else figures.items():
        values = [
            entry["value"] for entry in row["published"] if (entry["model"], entry["split"]) == (model, row["split"])
        ]
        cells.append(Cell("" if text == "–" else text, values[0] if values else None))
    if again:
        cells.append(Cell(rerun_figure(row)))
    if compared:
        gap, to = difference(row), row.get("reproduces")
        cells.append(Cell("") if gap is None else number_cell(gap, "+.3f", note=f"to {to}" if to else ""))
    cells += [Cell("" if (text := peer_figure(row, model)) == "–" else text) for model in beside]
    known = line.verdict if row["published"] else ""
    return [*cells, Cell(known, note=line.details)]


def _missing(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return why rows have no figure, each reason once, with the rows that share it and the commands that make them."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in (row for row in rows if row["status"] != "done"):
        reason = (row["status"].replace("_", " "), str(row["reason"] or "nothing was measured"))
        one = found.setdefault(reason, {"why": ": ".join(reason), "rows": [], "commands": []})
        one["rows"].append(f"{row['row']}: {row['experiment']}")
        if row.get("command") and row["command"] not in one["commands"]:
            one["commands"].append(row["command"])
    return list(found.values())


def _badges(row: Mapping[str, Any]) -> tuple[str, ...]:
    if row["status"] != "done":
        return (row["status"].replace("_", " "),)
    return (*(("paper's preset",) if row["budget"] == "paper" else ()), *row["badges"])


def _lines(results: Mapping[str, Any], base: Path, place: Place) -> list[_Line]:
    rows, taken = results["rows"], set[str]()
    lines = []
    for row in counted(rows, "report", len(rows)):
        stem = f"{slug(results['table'])}-{slug(row['row'])}-{slug(row['experiment'])}"
        anchor = next(name for name in (stem, *(f"{stem}-{k}" for k in range(2, 10_000))) if name not in taken)
        taken.add(anchor)
        lines.append(_line(row, anchor, base, place))
    return lines


def _line(row: Mapping[str, Any], anchor: str, base: Path, place: Place) -> _Line:
    line = _Line(row, anchor, [])
    folders = [RunFolder(Path(os.path.normpath(base / path))) for path in row["runs"]]
    experiment, sound = None, []
    for path, folder in zip(row["runs"], folders, strict=True):
        file = folder.path if folder.kept is None else kept_file(folder.path)
        link = Path(os.path.relpath(file, place.folder)).as_posix()
        run: dict[str, Any] = {"path": path, "link": link, "result": {}, "facts": {}}
        try:
            run["result"] = folder.result
            run["facts"] = {name: run["result"][key] for key, name in _FACTS.items() if run["result"].get(key)}
            sound.append(folder)
        except FlowbenchError as error:
            line.problems.append(" ".join(str(error).split()))
        line.runs.append(run)
    if sound:
        try:
            experiment = sound[0].experiment
            line.config = yaml.safe_dump(sound[0].config, sort_keys=False, allow_unicode=True, width=120)
            line.environment = sound[0].environment
            line.curves = _curves(row, anchor, sound, place)
            line.pictures = gallery(sound[0].figures, row["experiment"], page=place.folder)
        except (FlowbenchError, OSError, ValueError) as error:
            line.problems.append(" ".join(str(error).split()))
    line.verdict = verdict(row)
    line.details = details(row, shortfall(row, line.runs[0]["result"] if line.runs else {}, experiment))
    return line


def _curves(row: Mapping[str, Any], anchor: str, runs: Sequence[RunFolder], place: Place) -> Plot | None:
    from flowbench.report.curves import curve_keys, training_curves

    metrics = [run.metrics() for run in runs]
    keys = curve_keys(metrics, row["metric"])
    if not keys:
        return None
    drawn = keys[0].removeprefix("train/")
    # Another call's runs of this line have curves of their own.
    these = hashlib.sha256(json.dumps(row["runs"]).encode()).hexdigest()[:8]
    stem = place.plots and place.plots / f"{anchor}-training-{these}"
    title = "Training" + (", bits/dim of the noisy batches" if drawn == "bits_per_dim" else "")
    title += "" if drawn == row["metric"] or drawn == "bits_per_dim" else f", {unit(drawn)}"
    validated = any(one.get(keys[1]) is not None for rows in metrics for one in rows)
    title += ", and validation" if validated else "; nothing was held out to validate on"
    alt = f"Training curves of {row['experiment']} on {row['row']}: {unit(drawn)} over the training steps"
    files = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".svg", ".pdf")] if stem else []
    data = [run.path / "metrics.jsonl" for run in runs]
    if not place.redraw and files and _newer(files, data):
        links = {path.suffix[1:].upper(): path.relative_to(place.folder).as_posix() for path in files}
        return Plot(title, alt, embed(files[0]), links, drawn=True)
    if place.plots:
        for before in place.plots.glob(f"{anchor}-training*"):
            before.unlink()
    drawing = training_curves(metrics, row["metric"], row["model"])
    return None if drawing is None else save_plot(drawing, stem, page=place.folder, title=title, alt=alt)


def _share(
    lines: Sequence[_Line], what: str, name: str, part: Callable[[Mapping[str, Any]], tuple[str, Mapping[str, Any]]]
) -> list[_Shared]:
    """Return a part of the environments of all lines, each one once, and give each line its own."""
    found: dict[str, _Shared] = {}
    for line in lines:
        title, content = part(line.environment)
        words = {key: _words(value) for key, value in content.items() if value is not None}
        if words:
            new = _Shared(f"{name}-{slug(what)}-{len(found) + 1}", title, words)
            line.shared[what] = found.setdefault(json.dumps(words), new)
    return list(found.values())


def _machine(environment: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return how a run's machine and software are called, and all that is known of them."""
    device = environment.get("device_name") or environment.get("device") or "a machine without a name"
    commit = f", commit {str(environment['commit'])[:7]}" if environment.get("commit") else ""
    return f"{device}{commit}", {key: value for key, value in environment.items() if key != "data"}


def _data(environment: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return how a run's data are called, and all that is known of them."""
    data = environment.get("data")
    if not isinstance(data, Mapping):
        return "", {}
    windows = data.get("windows")
    number = windows.get("train") if isinstance(windows, Mapping) else None
    return f"{data.get('name')}{f', {number} windows' if number else ''}", data


def _newer(files: Sequence[Path], data: Sequence[Path]) -> bool:
    if not all(path.is_file() for path in files):
        return False
    oldest = min(path.stat().st_mtime for path in files)
    return all(path.stat().st_mtime < oldest for path in data if path.is_file())


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    return value if isinstance(value, str) else json.dumps(value)
