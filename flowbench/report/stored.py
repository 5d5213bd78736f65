"""The report again, from whatever lies on disk: results of tables, single runs, throughput, comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowbench.config.schema import Experiment
from flowbench.errors import InputError, one_line
from flowbench.report.build import write_report
from flowbench.report.comparison import comparison_sheet
from flowbench.report.page import slug
from flowbench.report.section import Place, Section
from flowbench.report.table_section import table_section
from flowbench.report.throughput_section import is_throughput, throughput_section
from flowbench.runs.folder import RunFolder, find_run
from flowbench.tables.result_files import SCHEMA, read_results
from flowbench.tables.results import done_row, rechecked_row
from flowbench.tables.shipped import rows_as_shipped
from flowbench.tables.table import Entry, Metric, Row, readable_tables

__all__ = ["DAMAGED", "build_from", "is_known", "runs_table", "train_command"]

PAGE_BYTES = 2_300_000
"""Of a page that is written alone, such as the one that this project commits: each version of it stays for ever."""
DAMAGED = (AttributeError, KeyError, TypeError, ValueError)
"""What reading a value that is missing, or is of another type, ends in."""


def build_from(sources: Sequence[str], out: Path) -> Path:
    """Write one page of several stored results, and their tables as files beside it; return the page's path.

    Args:
        sources: results folders, throughput files or folders of them, or runs as `find_run` knows them.
        out: the page's folder (the page is report.html in it, its plots are in `plots/`, too), or the page itself, a
            path that ends in .html, which holds its plots alone and stays small. The files of the tables are `table.*`
            beside the page for a single source in a folder, `tables/<name>.*` otherwise.

    Raises:
        InputError: a source is nothing that is known, or not readable.
    """
    page = out if out.suffix == ".html" else out / "report.html"
    place = Place(page.parent, page_bytes=PAGE_BYTES, alone=True) if out == page else Place(page.parent)
    single = len(sources) == 1 and out != page
    tables = page.parent if single else page.parent / "tables"
    runs = [source for source in sources if not is_known(Path(source))]
    _check_distinct([Path(source) for source in sources if _has_results(Path(source))])
    timed = [Path(source) for source in sources if source not in runs and not _has_results(Path(source))]
    sections = []
    for source in sources:
        if _has_results(Path(source)):
            sections.append(_of_table(Path(source), place, "table" if single else ""))
        elif timed and Path(source) == timed[0]:
            # All of them together, by device: one history, one picture.
            sections.append(throughput_section(timed, place, "table" if single else "throughput"))
    if runs:
        sections.append(_of_runs(runs, place, "table" if single else "runs"))
    return write_report(page, sections, tables, place.page_bytes)


def is_known(path: Path) -> bool:
    """Say whether a path is something that a page can show and that is not a single run."""
    return _has_results(path) or is_throughput(path)


def _check_distinct(tables: Sequence[Path]) -> None:
    """Refuse two results of one table: their files and their links would be the same."""
    found: dict[str, Path] = {}
    for path in tables:
        name = str(read_results(_file(path)).get("table"))
        if name in found:
            raise InputError(f"{path}: a second result of table {name}, beside {found[name]}: one of a page at a time")
        found[name] = path


def _has_results(path: Path) -> bool:
    return (path / "results.json" if path.is_dir() else path).name == "results.json" and _file(path).is_file()


def _file(path: Path) -> Path:
    return path / "results.json" if path.is_dir() else path


def _of_table(path: Path, place: Place, name: str) -> Section:
    file = _file(path)
    content = read_results(file)
    try:
        content["rows"] = [rechecked_row(row, file.parent) for row in rows_as_shipped(content)]
        return table_section(content, base=file.parent, place=place, name=name or content["table"])
    except DAMAGED as error:
        raise InputError(f"{file}: not a results file of flowbench reproduce ({type(error).__name__})") from error


def _of_runs(runs: Sequence[str], place: Place, name: str) -> Section:
    content = runs_table(runs)
    try:
        section = table_section(content, base=Path(), place=place, name=name)
        compared = comparison_sheet(content["rows"], f"{name}-settings")
    except DAMAGED as error:
        raise InputError(f"{', '.join(runs)}: damaged ({type(error).__name__}: {one_line(error)})") from error
    return section if compared is None else replace(section, sheets=[*section.sheets, compared])


def runs_table(runs: Sequence[str]) -> dict[str, Any]:
    """Return single runs as the content of a results.json, whose runs' paths are relative to the working folder.

    A run of a shipped table's experiment stands beside the figures that the table has for it.

    Raises:
        InputError: one is no run, or not finished.
    """
    rows = [_row(_found(run)) for run in runs]
    title = f"Runs on {', '.join(dict.fromkeys(row['dataset'] for row in rows))}"
    return {"schema": SCHEMA, "table": slug(title), "title": title, "description": "Single runs.", "rows": rows}


def train_command(run: RunFolder) -> str:
    """Return the command that trains a finished run anew."""
    budget = run.result.get("time_budget")
    return f"flowbench train {run.path / 'config.yaml'}" + (f" --time-budget {budget:g}s" if budget else "")


def _found(source: str) -> RunFolder:
    try:
        return find_run(source)
    except InputError as error:  # it might have been meant as results or throughput: nothing says that it is a run
        inside = sorted(str(path.parent) for path in Path(source).glob("*/results.json"))
        if inside:
            raise InputError(f"{source}: holds results of tables, each in a folder: name {' '.join(inside)}") from error
        raise InputError(f"{source}: no results.json and no throughput file; {error}") from error


def _row(run: RunFolder) -> dict[str, Any]:
    experiment, result = run.experiment, run.result
    try:
        row, entry = _known_row(experiment, result) or _row_of_its_own(experiment, result)
        content = done_row(row, entry, [experiment], [run.path], Path())
        content["command"] = train_command(run)
    except DAMAGED as error:
        path = run.path / "result.json"
        raise InputError(f"{path}: not a run's result ({type(error).__name__}: {one_line(error)})") from error
    return content


def _known_row(experiment: Experiment[Any, Any], result: Mapping[str, Any]) -> tuple[Row, Entry] | None:
    for row in (row for table in readable_tables() for row in table.rows):
        for entry in row.experiments:
            # A forecast's published figure belongs to its horizon, which the entry's overrides set.
            if entry.name == experiment.name and row.dataset == result["dataset"] and experiment.kind == "density":
                return row, entry
    return None


def _row_of_its_own(experiment: Experiment[Any, Any], result: Mapping[str, Any]) -> tuple[Row, Entry]:
    metric: Metric = "bits_per_dim" if experiment.kind == "density" else "mae"
    split: Any = next((name for name, metrics in result["metrics"].items() if metric in metrics), "test")
    entry = Entry(name=experiment.name)
    title = result["dataset"]
    if experiment.kind == "forecast":
        # Figures of other horizons or protocols are no figures of the same thing.
        title += f" {experiment.data.horizon}, {experiment.data.protocol}"
        if experiment.data.test_on is not None:
            title += f", tested on {experiment.data.test_on}"
    elif experiment.data.bits != 8:
        title += f", {experiment.data.bits} bits"
    return Row(row=title, dataset=result["dataset"], metric=metric, split=split, experiments=[entry]), entry
