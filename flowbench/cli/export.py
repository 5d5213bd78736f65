"""`flowbench export`: a run's model in a folder that travels."""

from pathlib import Path
from typing import Annotated

import typer

from flowbench.cli import app
from flowbench.cli.arguments import RUN


@app.command()
def export(
    run: RUN,
    out: Annotated[Path, typer.Option(help="The new folder.")],
    licence: Annotated[str, typer.Option(help="Of the weights, as model hubs name it, e.g. apache-2.0.")] = "unknown",
) -> None:
    """Write weights, config, figures and a model card into a folder for another machine or a model hub.

    Example: `flowbench export real_nvp/digits --out real_nvp-digits --licence apache-2.0`
    """
    from flowbench.runs.folder import find_run
    from flowbench.trained.exporting import export_run

    typer.echo(export_run(find_run(run), out, licence))
