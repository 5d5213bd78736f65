"""Arguments that several commands share, and how their text is read."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flowbench.errors import InputError

if TYPE_CHECKING:
    from flowbench.tracking import Mirror

__all__ = [
    "DATASET",
    "DRY_RUN",
    "EXPERIMENT",
    "JOBS",
    "JSON",
    "LIMIT",
    "LOGGER",
    "OVERRIDES",
    "RUN",
    "SLURM",
    "STORAGE",
    "THROUGHPUT",
    "complete",
    "mirror_of",
    "parse_duration",
    "parse_levels",
    "parse_percentage",
    "parse_seeds",
    "sbatch_settings",
    "whole_numbers",
]


def complete(of: Literal["experiments", "tables", "datasets", "runs"]) -> Callable[[str], list[str]]:
    """Return the shell completion of an argument: the names that there are today; never an error.

    Names are looked up when the shell asks, and only then.
    """

    def names(incomplete: str) -> list[str]:
        try:
            return [name for name in _NAMES[of]() if name.startswith(incomplete)]
        except Exception:  # a completion that fails says nothing: its traceback would land in the middle of the line
            return []

    return names


def _experiments() -> list[str]:
    from flowbench.config.experiments import experiment_names

    return experiment_names()


def _tables() -> list[str]:
    from flowbench.tables.table import table_names

    return table_names()


def _datasets() -> list[str]:
    from flowbench.config.registry import image_sets, series_sets

    return sorted({*image_sets, *series_sets})


def _runs() -> list[str]:
    found = {path.parent for path in Path("runs").glob("*/*/*/config.yaml")}
    return sorted({"/".join(path.parts[1:]) for path in found} | {"/".join(path.parts[1:3]) for path in found})


_NAMES = {"experiments": _experiments, "tables": _tables, "datasets": _datasets, "runs": _runs}

EXPERIMENT = Annotated[
    str,
    typer.Argument(
        help="An experiment's name, a YAML file, or a run's config.yaml.", autocompletion=complete("experiments")
    ),
]
DATASET = Annotated[
    str, typer.Argument(help="The data set's name: see `flowbench data list`.", autocompletion=complete("datasets"))
]

SLURM = Annotated[list[str] | None, typer.Option("--slurm", help="KEY=VALUE of sbatch, e.g. partition=gpu.")]
JOBS = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "--workers",
        min=1,
        help="Trainings at a time, each a process of one thread [default: the cores; on a GPU 1].",
    ),
]
OVERRIDES = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Dotted overrides, e.g. model.features=32.")
]
RUN = Annotated[
    str,
    typer.Argument(
        help="A run folder, `<experiment>/<run id>`, or an experiment (its newest finished run).",
        autocompletion=complete("runs"),
    ),
]
DRY_RUN = Annotated[
    bool, typer.Option("--dry-run", help="Say what it would cost (parameters, memory, hours, disk); train nothing.")
]
THROUGHPUT = Annotated[
    Path | None, typer.Option(help="With --dry-run: take the speed from a file of `flowbench throughput run`.")
]
STORAGE = Annotated[
    str,
    typer.Option(
        help="Where the study is kept: sqlite:///FILE, postgresql://…, grpc://HOST:PORT.", envvar="OPTUNA_STORAGE"
    ),
]
LIMIT = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Measure so many images or windows only (`evaluate.limit`): labelled `limited`, compared with nothing.",
    ),
]
LOGGER = Annotated[
    Literal["mlflow", "tensorboard"],
    typer.Option(help="What mirrors the runs: MLflow, or event files in each run's folder `tensorboard/`."),
]
JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def mirror_of(logger: str) -> "Mirror":
    """Return what mirrors runs there; InputError where its package is missing."""
    from flowbench.tracking import EventMirror, Mirror

    return EventMirror() if logger == "tensorboard" else Mirror()


def parse_duration(text: str | None) -> float | None:
    """Read `90s`, `20m` or `1.5h` as seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match or float(match[1]) == 0:
        raise InputError(f"--time-budget {text!r}: write a number and a unit, for example 90s, 20m or 1.5h")
    return float(match[1]) * _UNITS[match[2]]


def parse_levels(text: str) -> tuple[float, ...]:
    """Read `0.05,0.5,0.95` as numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"0?\.\d+", part) for part in parts):
        raise InputError(f"--quantiles {text!r}: write numbers between 0 and 1 with commas, for example 0.05,0.5,0.95")
    return tuple(float(part) for part in parts)


def parse_percentage(text: str) -> float:
    """Read `5%` or `0.05` as 0.05."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text)
    if not match or (not match[2] and float(match[1]) >= 1):
        raise InputError(f"--max-slowdown {text!r}: write a percentage, for example 5%, or a part below 1, as 0.05")
    return float(match[1]) / (100 if match[2] else 1)


def parse_seeds(text: str | None) -> list[int] | None:
    """Read `0,1,2` as a list of seeds."""
    if text is None:
        return None
    seeds = whole_numbers(text)
    if seeds is None:
        raise InputError(
            f"--seeds {text!r}: write non-negative whole numbers with commas and without leading zeros, "
            "for example 0,1,2"
        )
    if len(set(seeds)) != len(seeds):
        raise InputError(f"--seeds {text!r}: a seed stands twice")
    return seeds


def whole_numbers(text: str) -> list[int] | None:
    """Read `16,64` as a list; None where a part is no whole number in plain digits: 010 is 8 or 10, who knows."""
    parts = [part.strip() for part in text.split(",")]
    return [int(part) for part in parts] if all(re.fullmatch("0|[1-9][0-9]*", part) for part in parts) else None


def sbatch_settings(submit: str | None, slurm: list[str] | None) -> list[str]:
    """Return the `KEY=VALUE` of `--slurm`.

    Raises:
        InputError: nothing is submitted that they could belong to.
    """
    if slurm and submit != "slurm":
        raise InputError(f"--slurm {slurm[0]}: only jobs on Slurm have it: add --submit slurm")
    return slurm or []
