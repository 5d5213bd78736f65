"""How figures are written for people, and a results file as Markdown and CSV."""

import csv
import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "as_csv",
    "as_markdown",
    "as_table",
    "described",
    "difference",
    "figure",
    "labels",
    "published_figure",
    "unit",
]

_UNITS = {"bits_per_dim": "bits/dim", "mae": "MAE", "mse": "MSE", "mae_original": "MAE, original units"}
_COLUMNS = ("row", "dataset", "experiment", "model", "metric", "split", "value", "stderr", "n", "seed_std", "horizon")
_MORE_COLUMNS = ("lookback", "status", "reason", "budget")


def unit(metric: str) -> str:
    """Return a metric's name for people."""
    return _UNITS.get(metric, metric.replace("_", " "))


def figure(row: Mapping[str, Any]) -> str:
    """Return `value ± standard error`; over several seeds with their standard deviation; a dash where there is none."""
    if row["value"] is None or not math.isfinite(row["value"]):
        return "–"
    text = f"{row['value']:.3f}"
    if row["stderr"] is not None:
        text += f" ± {row['stderr']:.3f}"
    if row["seed_std"] is not None:
        text += f" ({len(row['seeds'])} seeds, sd {row['seed_std']:.3f})"
    return text


def published_figure(row: Mapping[str, Any], model: str) -> str:
    """Return a model's published figure on the row's split, with `<` for a bound and the training figure behind it."""
    mine = [entry for entry in row["published"] if entry["model"] == model]
    main = [_bounded(entry) for entry in mine if entry["split"] == row["split"]]
    train = [_bounded(entry) for entry in mine if entry["split"] == "train" and row["split"] != "train"]
    return " ".join([*main[:1], *(f"({text})" for text in train[:1])]) or "–"


def difference(row: Mapping[str, Any]) -> float | None:
    """Return ours − the published figure of the model that is reproduced, on the same split; None without either."""
    for entry in row["published"]:
        if (entry["model"], entry["split"]) == (row.get("reproduces"), row["split"]) and row["value"] is not None:
            return float(row["value"] - entry["value"])
    return None


def labels(row: Mapping[str, Any]) -> str:
    """Return what the figure is made of: levels, dequantization, draws, bound, batch norm, weights, window."""
    parts = [f"{key.replace('_', ' ')} {value}" for key, value in row.get("labels", {}).items()]
    parts += [f"{key} {row[key]}" for key in ("lookback", "horizon") if row.get(key) is not None]
    return ", ".join(parts)


def described(row: Mapping[str, Any]) -> str:
    """Return the badges, or why there is no figure."""
    if row["status"] != "done":
        return f"{row['status'].replace('_', ' ')}: {row['reason']}"
    return ", ".join(row["badges"])


def as_markdown(results: Mapping[str, Any]) -> str:
    """Return the table as GitHub's Markdown."""
    models = _models(results)
    head = ["row", "experiment", "split", "metric", "ours ± standard error", "labels", "status", *models]
    lines = [head, ["---"] * len(head)]
    for row in results["rows"]:
        cells = [row["row"], row["experiment"], row["split"], unit(row["metric"]), figure(row), labels(row)]
        lines.append([*cells, described(row), *(published_figure(row, model) for model in models)])
    body = "\n".join("| " + " | ".join(_markdown(cell) for cell in line) + " |" for line in lines)
    return f"# {_markdown(results.get('title', results['table']))}\n\n{body}\n"


def as_table(results: Mapping[str, Any]) -> "Table":
    """Return the table for a terminal."""
    from rich.table import Table

    models = _models(results)
    table = Table(title=results.get("title", results["table"]), title_justify="left", show_edge=False)
    for name in ("row", "experiment", "split", "ours ± standard error", "labels", "status", *models):
        table.add_column(name, overflow="fold")
    for row in results["rows"]:
        words = ", ".join(row["badges"]) if row["status"] == "done" else row["status"].replace("_", " ")
        cells = [
            row["row"],
            row["experiment"],
            row["split"],
            f"{figure(row)} {unit(row['metric'])}",
            labels(row),
            words,
        ]
        table.add_row(*(escape(cell) for cell in cells), *(published_figure(row, model) for model in models))
    return table


def as_csv(results: Mapping[str, Any]) -> str:
    """Return the table as CSV with full precision; texts that a spreadsheet would take for formulas are quoted."""
    models = _models(results)
    columns = [*_COLUMNS, *_MORE_COLUMNS]
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow([_cell(name) for name in [*columns, "badges", "seeds", "labels", "difference", *models]])
    for row in results["rows"]:
        joined = [", ".join(row["badges"]), ", ".join(map(str, row["seeds"])), labels(row), difference(row)]
        values = [row.get(column) for column in columns] + joined
        writer.writerow([_cell(value) for value in [*values, *(published_figure(row, model) for model in models)]])
    return target.getvalue()


def _models(results: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(entry["model"] for row in results["rows"] for entry in row["published"]))


def _bounded(entry: Mapping[str, Any]) -> str:
    digits = f"{entry['value']:.3f}" if round(entry["value"], 2) != entry["value"] else f"{entry['value']:.2f}"
    return f"< {digits}" if entry["bound"] == "<" else digits


def _markdown(text: str) -> str:
    escaped = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(escaped.replace("|", "\\|").split())


def _cell(value: Any) -> Any:
    # A number stays a number, "-1.2" included; only text can be a formula (OWASP: CSV injection).
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
