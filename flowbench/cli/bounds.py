"""`flowbench bounds`: renew the accuracy gate's bounds from stored results."""

from pathlib import Path
from typing import Annotated

import typer

from flowbench.cli import app


@app.command()
def bounds(
    results: Annotated[Path, typer.Argument(help="The folder of results.json, with three seeds a row or more.")],
    table: Annotated[str | None, typer.Option(help="The table's YAML file [default: the results' own table].")] = None,
) -> None:
    """Write what `reproduce --gate` compares with, measured over seeds, into the table's YAML file.

    Example: `flowbench reproduce quick --seeds 0,1,2 --out seeds && flowbench bounds seeds`
    """
    from flowbench.tables.bounds import write_bounds

    file, lines = write_bounds(results, table)
    for line in lines:
        typer.echo(line)
    typer.echo(f"written to {file}")
