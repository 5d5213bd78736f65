"""`flowbench list`: the experiments, tables, models and data sets that there are."""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Literal

import typer

from flowbench.cli import app
from flowbench.cli.arguments import JSON
from flowbench.cli.lines import say
from flowbench.errors import InputError

Kind = Literal["experiments", "tables", "models", "datasets"]
Entries = dict[str, dict[str, str]]
"""What is told of each thing, by its name."""


@app.command("list")
def list_(
    kind: Annotated[Kind | None, typer.Argument(help="Which of them [default: all].")] = None, as_json: JSON = False
) -> None:
    """Say what there is: experiments, tables, models, data sets, a line each.

    Example: `flowbench list experiments`
    """
    found = {name: entries() for name, entries in _ENTRIES.items() if kind in (None, name)}
    if as_json:
        typer.echo(
            json.dumps({kind: [{"name": name, **told} for name, told in rows.items()] for kind, rows in found.items()})
        )
        return
    for title, rows in found.items():
        if kind is None:
            typer.echo(f"{title}:")
        indent = "  " * (kind is None)
        width = max(len(name) for name in rows)
        for name, told in rows.items():
            say(f"{indent}{name.ljust(width)}  {', '.join(word for word in told.values() if word)}", width + 4)


def _experiments() -> Entries:
    from flowbench.config.experiments import experiment_names, load_experiment

    found: Entries = {}
    for name in experiment_names():
        try:
            one = load_experiment(name)
        except InputError as error:  # a file in ./experiments that is being written
            found[name] = {"kind": "", "model": "", "dataset": "", "preset": "", "problem": str(error)}
            continue
        dataset = one.data.name or one.data.csv
        found[name] = {"kind": one.kind, "model": one.model.name, "dataset": dataset, "preset": one.preset or ""}
    return found


def _tables() -> Entries:
    from flowbench.tables.table import readable_tables

    return {table.table: {"title": table.title} for table in readable_tables()}


def _models() -> Entries:
    from flowbench.config.registry import density_models, forecasters

    kinds = {"density": density_models, "forecast": forecasters}
    return {
        name: {"kind": kind, "what": _first_line(models[name])} for kind, models in kinds.items() for name in models
    }


def _datasets() -> Entries:
    from flowbench.data.preparing import list_sets

    rows = list_sets()
    return {
        row.name: {"title": row.title, "here": f"here: {row.status}" if row.present else "not here"} for row in rows
    }


def _first_line(config: type) -> str:
    """Return what a model's config, else its module, says that it is."""
    return (config.__doc__ or sys.modules[config.__module__].__doc__ or "").partition("\n")[0]


_ENTRIES: dict[Kind, Callable[[], Entries]] = {
    "experiments": _experiments,
    "tables": _tables,
    "models": _models,
    "datasets": _datasets,
}
