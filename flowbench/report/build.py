"""The report: table.md, table.csv and one self-contained report.html from a results file and its run folders."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbench import atomic
from flowbench.errors import FlowbenchError
from flowbench.report.formats import as_csv, as_markdown, described, difference, figure, labels, published_figure, unit
from flowbench.runs import RunFolder

__all__ = ["build"]

MAX_PICTURE_BYTES = 1_500_000
MAX_PICTURES = 4


def build(results: Mapping[str, Any], *, base: Path, out: Path) -> Path:
    """Write table.md, table.csv and report.html and return the last one's path.

    Args:
        results: the content of a results.json.
        base: the folder that the runs' paths in `results` are relative to.
        out: where to write.
    """
    atomic.write_text(out / "table.md", as_markdown(results))
    atomic.write_text(out / "table.csv", as_csv(results))
    page = _template().render(
        results=results,
        rows=results["rows"],
        models=list(dict.fromkeys(entry["model"] for row in results["rows"] for entry in row["published"])),
        sources=sorted({entry["source"] for row in results["rows"] for entry in row["published"]}),
        missing=[row for row in results["rows"] if row["status"] != "done"],
        runs=[_run(base, path, row) for row in results["rows"] for path in row["runs"]],
    )
    atomic.write_text(out / "report.html", page)
    return out / "report.html"


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flowbench.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        figure=figure,
        published_figure=published_figure,
        difference=difference,
        labels=labels,
        described=described,
        unit=unit,
    )
    return environment.get_template("report.html.j2")


def _run(base: Path, path: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a run; a damaged or lost folder is shown as such."""
    folder = RunFolder(base / path)
    content: dict[str, Any] = {"path": path, "row": row, "result": {}, "environment": {}, "config": "", "problem": None}
    content |= {"curves": None, "pictures": []}
    try:
        content["result"] = folder.result
        content["environment"] = {key: _words(value) for key, value in folder.environment.items() if value is not None}
        content["config"] = (folder.path / "config.yaml").read_text(encoding="utf-8")
        content["curves"] = _curves(folder, row)
        content["pictures"] = _pictures(folder)
    except (FlowbenchError, OSError, ValueError) as error:
        content["problem"] = " ".join(str(error).split())
    return content


def _curves(folder: RunFolder, row: Mapping[str, Any]) -> str | None:
    from flowbench.report.curves import training_curves

    drawn = training_curves(folder.metrics(), row["metric"], row["model"])
    return None if drawn is None else _data_uri(drawn, "image/svg+xml")


def _pictures(folder: RunFolder) -> list[dict[str, str]]:
    files = [file for file in sorted(folder.figures.glob("samples*.png")) if file.stat().st_size <= MAX_PICTURE_BYTES]
    return [{"name": file.stem, "uri": _data_uri(file.read_bytes(), "image/png")} for file in files[:MAX_PICTURES]]


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    return value if isinstance(value, str) else json.dumps(value)
