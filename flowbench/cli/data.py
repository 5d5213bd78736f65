"""`flowbench data`: what the data sets are, prepare them, check them."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from flowbench.cli import app
from flowbench.cli.arguments import JSON

_data = typer.Typer(no_args_is_help=True, help="Data sets: list, prepare, verify.")
app.add_typer(_data, name="data")

_NAME = Annotated[str, typer.Argument(help="The data set's name: see `flowbench data list`.")]


@_data.command("list")
def list_(as_json: JSON = False) -> None:
    """Say what each data set is, where it comes from, under which terms, and whether it is here.

    Example: `flowbench data list`
    """
    from flowbench.data import list_sets

    rows = list_sets()
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['name']}: {row['title']}")
        for key, value in row.items():
            if key not in ("name", "title"):
                typer.echo(f"  {key.replace('_', ' ')}: {value}")


@_data.command()
def prepare(
    name: _NAME,
    source: Annotated[Path | None, typer.Option(help="The folder or archive that you have.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch it, where that is allowed.")] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out broken images; the manifest lists them.")
    ] = False,
    resample: Annotated[Literal["tf1-bilinear", "antialias"] | None, typer.Option(help="Resizing (CelebA).")] = None,
) -> None:
    """Build the prepared arrays of a data set.

    Example: `flowbench data prepare cifar10 --source cifar-10-python.tar.gz`
    """
    from flowbench.data import prepare as prepare_set

    typer.echo(prepare_set(name, source=source, download=download, skip_broken=skip_broken, resample=resample))


@_data.command()
def verify(name: _NAME) -> None:
    """Recompute the fingerprints of a prepared set; exit 1 where they differ.

    Example: `flowbench data verify cifar10`
    """
    from flowbench.data import verify as verify_set

    typer.echo(verify_set(name))
