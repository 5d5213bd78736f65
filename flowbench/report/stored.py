"""The report again, from results and runs that lie on disk."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flowbench
from flowbench.errors import InputError
from flowbench.report.build import build
from flowbench.results import done_row
from flowbench.runs import RunFolder, find_run
from flowbench.tables import Entry, Row

__all__ = ["build_from"]


def build_from(sources: Sequence[str], out: Path) -> Path:
    """Write one report of several results folders and runs, and return the page's path.

    Args:
        sources: folders with a results.json, or runs as `find_run` knows them.
        out: where table.md, table.csv and report.html go.

    Raises:
        InputError: a source is neither, or not readable.
    """
    stored = [_results(Path(source), out) or _of_run(source, out) for source in sources]
    results = {
        "schema": 1,
        "table": stored[0]["table"],
        "title": "; ".join(dict.fromkeys(one["title"] for one in stored)),
        "description": " ".join(dict.fromkeys(one["description"] for one in stored)),
        "flowbench": flowbench.__version__,
        "rows": [row for one in stored for row in one["rows"]],
    }
    return build(results, base=out, out=out)


def _results(source: Path, out: Path) -> dict[str, Any] | None:
    path = source / "results.json" if source.is_dir() else source
    if path.name != "results.json" or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [_moved(row, path.parent, out) for row in content["rows"]]
        return {key: content[key] for key in ("table", "title", "description")} | {"rows": rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a results file of flowbench reproduce ({type(error).__name__})") from error


def _moved(row: Mapping[str, Any], base: Path, out: Path) -> dict[str, Any]:
    return {**row, "runs": [Path(os.path.relpath(base / run, out)).as_posix() for run in row["runs"]]}


def _of_run(source: str, out: Path) -> dict[str, Any]:
    run: RunFolder = find_run(source)
    experiment, result = run.experiment, run.result
    split = next(iter(result["metrics"]))
    row = Row(
        row=result["dataset"],
        dataset=result["dataset"],
        metric="bits_per_dim" if experiment.kind == "density" else "mae",
        split=split,
        experiments=[Entry(name=experiment.name)],
    )
    content = done_row(row, row.experiments[0], [experiment], [run.path], out)
    content["command"] = f"flowbench train {run.path / 'config.yaml'}"
    return {"table": "runs", "title": "Runs", "description": "Single runs.", "rows": [content]}
