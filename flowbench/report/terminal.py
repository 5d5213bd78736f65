"""A table on a terminal: as columns where these fit, else row by row, so that no word is broken and nothing is cut."""

import textwrap
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flowbench.report.formats import figure, labels, models, peer_figure, peers, published_figure, unit

__all__ = ["on_terminal"]

LABELS_WIDTH = 36
"""Columns in which labels can be read."""


def on_terminal(results: Mapping[str, Any], width: int) -> RenderableType:
    """Return a table for a terminal of so many columns.

    Args:
        results: the content of a results.json.
        width: of the terminal.
    """
    title = str(results.get("title", results["table"]))
    names = (
        "row",
        "experiment",
        "split",
        "ours ± standard error",
        "labels",
        "status",
        *models(results),
        *peers(results),
    )
    cells = [[*_ours(row), *(text for _, text in _theirs(results, row))] for row in results["rows"]]
    natural = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    natural[4] = min(natural[4], LABELS_WIDTH)
    if sum(natural) + 3 * len(natural) > width:
        return Group(*(Text(line) for line in (title, *_row_by_row(results, width))))
    table = Table(title=title, title_justify="left", show_edge=False)
    for name in names:
        table.add_column(name, no_wrap=name != "labels", min_width=LABELS_WIDTH if name == "labels" else None)
    for line in cells:
        table.add_row(*map(escape, line))
    return table


def _ours(row: Mapping[str, Any]) -> list[str]:
    return [row["row"], row["experiment"], row["split"], figure(row, unit(row["metric"])), labels(row), _status(row)]


def _theirs(results: Mapping[str, Any], row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return each published model and each peer of the table with its figure in this row."""
    published = [(model, published_figure(row, model)) for model in models(results)]
    return [*published, *((model, peer_figure(row, model)) for model in peers(results))]


def _row_by_row(results: Mapping[str, Any], width: int) -> Iterator[str]:
    """Yield each row's title with its published figures, under it a line for each of ours, and its labels."""
    rows = results["rows"]
    name, ours = (max(len(text(row)) for row in rows) for text in (lambda row: row["experiment"], figure))
    for (title, split, metric), group in groupby(rows, lambda row: (row["row"], row["split"], row["metric"])):
        lines = list(group)
        theirs = [f"{model} {known}" for model, known in _theirs(results, lines[0]) if known != "–"]
        head = f"{title}, {split}, {unit(metric)}"
        yield from _wrapped(f"{head}: {', '.join(theirs)}" if theirs else head, width, "")
        for row in lines:
            line = f"  {row['experiment']:{name}}  {figure(row):{ours}}  {_status(row)}"
            yield from [line] if len(line) <= width else _wrapped(line.strip(), width, "  ")
            if row["status"] == "done":
                yield from _wrapped(labels(row), width, "    ")


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _status(row: Mapping[str, Any]) -> str:
    return ", ".join(row["badges"]) if row["status"] == "done" else str(row["status"]).replace("_", " ")
