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
