"""The report again, from whatever lies on disk: results of tables, single runs, throughput, comparisons."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flowbench.errors import InputError
from flowbench.report.build import write_report
from flowbench.report.section import Place, Section
from flowbench.report.table_section import table_section
from flowbench.report.throughput_section import is_throughput, throughput_section
from flowbench.results import done_row
from flowbench.runs import RunFolder, find_run
from flowbench.tables import Entry, Row

__all__ = ["READERS", "build_from"]


def build_from(sources: Sequence[str], out: Path) -> Path:
    """Write one page of several stored results, and their tables as files beside it; return the page's path.

    Args:
        sources: folders or files that one of `READERS` knows, or runs as `find_run` knows them.
        out: the page's folder (the page is report.html in it), or the page itself, a path that ends in .html.

    Raises:
        InputError: a source is nothing that is known, or not readable.
    """
    page = out if out.suffix == ".html" else out / "report.html"
    place = Place(page.parent)
    alone = len(sources) == 1
    tables = page.parent if alone else page.parent / "tables"
    runs = [source for source in sources if not _is_known(Path(source))]
    sections = [_section(Path(source), place, "table" if alone else "") for source in sources if source not in runs]
    if runs:
        sections.append(_of_runs(runs, place, "table" if alone else "runs"))
    return write_report(page, sections, tables)


def _is_known(path: Path) -> bool:
    return any(probe(path) for probe, _ in READERS)


def _section(path: Path, place: Place, name: str) -> Section:
    return next(read(path, place, name) for probe, read in READERS if probe(path))


def _has_results(path: Path) -> bool:
    return (path / "results.json" if path.is_dir() else path).name == "results.json" and _file(path).is_file()


def _file(path: Path) -> Path:
    return path / "results.json" if path.is_dir() else path


def _of_table(path: Path, place: Place, name: str) -> Section:
    file = _file(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return table_section(content, base=file.parent, place=place, name=name or content["table"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a results file of flowbench reproduce ({type(error).__name__})") from error


def _of_runs(runs: Sequence[str], place: Place, name: str) -> Section:
    rows = [_row(find_run(run)) for run in runs]
    content = {"table": "runs", "title": "Runs", "description": "Single runs.", "rows": rows}
    return table_section(content, base=Path(), place=place, name=name)


def _row(run: RunFolder) -> dict[str, Any]:
    experiment, result = run.experiment, run.result
    split = next(iter(result["metrics"]))
    row = Row(
        row=result["dataset"],
        dataset=result["dataset"],
        metric="bits_per_dim" if experiment.kind == "density" else "mae",
        split=split,
        experiments=[Entry(name=experiment.name)],
    )
    content = done_row(row, row.experiments[0], [experiment], [run.path], Path())
    content["command"] = f"flowbench train {run.path / 'config.yaml'}"
    return content


def _of_throughput(path: Path, place: Place, name: str) -> Section:
    return throughput_section(path, place, name or "throughput")


READERS: list[tuple[Callable[[Path], bool], Callable[[Path, Place, str], Section]]] = [
    (_has_results, _of_table),
    (is_throughput, _of_throughput),
]
"""What a source may be: (does this path look like one?, read it)."""
