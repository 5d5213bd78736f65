"""`flowbench compare`: whether one model is better than another, and many runs or a study's trials side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flowbench.cli import app
from flowbench.cli.arguments import JSON, STORAGE
from flowbench.cli.lines import say
from flowbench.errors import InputError

_RUNS = "A run, an exported folder, a folder of runs, or an experiment (all seeds of its newest config)."


@app.command()
def compare(
    models: Annotated[list[str] | None, typer.Argument(metavar="A B", help=_RUNS)] = None,
    split: Annotated[
        str | None, typer.Option(help="Which part of the data [default: the report split, or what chose them].")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="bits_per_dim; mae, mse, nll, crps or mae_median.")] = None,
    experiment: Annotated[str | None, typer.Option(help="All finished runs of such experiments: 'real_nvp/*'.")] = None,
    runs: Annotated[list[str] | None, typer.Option(help="These runs: --runs RUN RUN ….")] = None,
    study: Annotated[str | None, typer.Option(help="The trials of a study of flowbench tune.")] = None,
    storage: STORAGE = "sqlite:///optuna.db",
    out: Annotated[Path | None, typer.Option(help="Where page, tables and plots go [default: comparison].")] = None,
    as_json: JSON = False,
) -> None:
    """Compare two models on the same images or windows, or many runs or trials side by side.

    Example: `flowbench compare real_nvp/digits glow/digits`

    Example: `flowbench compare --study real_nvp-digits-study --out comparison`
    """
    if experiment is None and runs is None and study is None:
        if models is None or len(models) != 2:
            raise InputError(
                "compare: name two models (A B), or give --experiment PATTERN, --runs RUN RUN … or --study"
            )
        _paired(models[0], models[1], split, metric, as_json=as_json)
        return
    folder = out or Path("comparison")
    if study is not None and (metric or split):
        raise InputError("compare --study: trials are compared by what chose them: leave --metric and --split out")
    chosen = {"metric": metric, "split": split}
    page, words = _many(experiment, [*(runs or []), *(models or [])], study, storage, folder, chosen)
    if as_json:
        typer.echo(json.dumps({"page": str(page), "words": words}))
        return
    for line in words:
        say(line)
    typer.echo(f"page: {page}")


def _paired(a: str, b: str, split: str | None, metric: str | None, *, as_json: bool) -> None:
    from flowbench.comparison.compared_runs import compare_runs

    compared = compare_runs(a, b, split=split, metric=metric)
    if as_json:
        typer.echo(json.dumps(compared.as_json()))
        return
    for line in compared.lines:
        say(line)


def _many(
    experiment: str | None, runs: list[str], study: str | None, storage: str, out: Path, chosen: dict[str, str | None]
) -> tuple[Path, list[str]]:
    from flowbench.comparison import compare_many, compare_study

    if study is not None:
        if experiment is not None or runs:
            raise InputError("compare: give either --study, or runs and --experiment")
        from flowbench.tuning.joining import find_study
        from flowbench.tuning.storage import explained, open_storage

        with explained(storage):
            return compare_study(find_study(study, open_storage(storage, make=False)), out)
    from flowbench.comparison.entries import runs_like

    found = runs_like(experiment) if experiment is not None else []
    return compare_many([*found, *runs], out, experiment or "Runs", **chosen)
