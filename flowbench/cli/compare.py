"""`flowbench compare`: whether one model is better than another."""

import json
from typing import Annotated

import typer

from flowbench.cli import app
from flowbench.cli.arguments import JSON

_RUNS = "A run, an exported folder, a folder of runs, or an experiment (all seeds of its newest config)."


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help=_RUNS)],
    b: Annotated[str, typer.Argument(help=_RUNS)],
    split: Annotated[str | None, typer.Option(help="Which part [default: the set's report split].")] = None,
    metric: Annotated[str | None, typer.Option(help="bits_per_dim, mae or mse.")] = None,
    as_json: JSON = False,
) -> None:
    """Compare two models on the same images or windows: difference, error bars, verdict.

    Example: `flowbench compare real_nvp/digits glow/digits`
    """
    from flowbench.compared_runs import compare_runs

    compared = compare_runs(a, b, split=split, metric=metric)
    if as_json:
        typer.echo(json.dumps(compared.as_json()))
        return
    for line in compared.lines:
        typer.echo(line)
