"""`flowbench track`: MLflow's copy of the runs."""

from pathlib import Path
from typing import Annotated

import typer

from flowbench.cli import app

_track = typer.Typer(
    no_args_is_help=True, help="Put runs made offline into MLflow; look at them.\n\nExample: `flowbench track ui`"
)
app.add_typer(_track, name="track")


@_track.command("import")
def import_(
    runs: Annotated[
        list[str], typer.Argument(help="Run folders, `<experiment>/<run id>`, experiments, or folders of tables.")
    ],
) -> None:
    """Put runs into MLflow; what is there already is not put in twice.

    Example: `flowbench track import runs/real_nvp/digits/*`
    """
    from flowbench.runs.folder import find_run
    from flowbench.tracking import import_run

    tables = [Path(run) for run in runs if (Path(run) / "results.json").is_file()]
    for path in [*(find_run(run).path for run in runs if Path(run) not in tables), *tables]:
        typer.echo(f"{path}: {import_run(path)}")


@_track.command()
def ui(port: Annotated[int, typer.Option(help="Port on localhost.")] = 5000) -> None:
    """Open MLflow's pages on localhost.

    Example: `flowbench track ui --port 5001`
    """
    from flowbench.tracking import ui as serve

    serve(port)
