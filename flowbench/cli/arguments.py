"""Arguments that several commands share, and how their text is read."""

import re
from typing import Annotated

import typer

from flowbench.errors import InputError

__all__ = ["JSON", "OVERRIDES", "RUN", "parse_duration", "parse_seeds"]

OVERRIDES = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, e.g. model.features=32.")
]
RUN = Annotated[
    str, typer.Argument(help="A run folder, <experiment>/<run id>, or an experiment (its newest finished run).")
]
JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str | None) -> float | None:
    """Read `90s`, `20m` or `1.5h` as seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match or float(match[1]) == 0:
        raise InputError(f"--time-budget {text!r}: write a number and a unit, for example 90s, 20m or 1.5h")
    return float(match[1]) * _UNITS[match[2]]


def parse_seeds(text: str | None) -> list[int] | None:
    """Read `0,1,2` as a list of seeds."""
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"--seeds {text!r}: write non-negative whole numbers with commas, for example 0,1,2")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) != len(seeds):
        raise InputError(f"--seeds {text!r}: a seed stands twice")
    return seeds
