"""Commands: parse, call, print. Everything heavy is imported inside the command that needs it."""

import importlib
import os
import pkgutil
from typing import Annotated

import typer

from flowbench.errors import InputError
from flowbench.system.version import __version__

__all__ = ["app"]

app = typer.Typer(
    name="flowbench",
    help="Reproduce, compare and time likelihood models.\n\n"
    "Example: `flowbench reproduce quick`, then open results/quick/report.html",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"flowbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="FILE_OR_MODULE",
            help="Import a module of your own first: it registers models, data sets, forecasters, figures. "
            "Anywhere in the line, any number of times.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Reproduce, compare and time likelihood models."""
    if context.invoked_subcommand != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        name = context.invoked_subcommand
        remedy = "tune has --nproc-per-node instead" if name == "tune" else "train takes several"
        raise InputError(f"torchrun: flowbench {name} is for one process; {remedy}")


# A module here is a command: it enters itself into `app`, and nothing else is edited.
for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
