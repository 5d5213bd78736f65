"""`flowbench reproduce` and `flowbench report`: whole tables, and the page again from what is stored."""

import json
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flowbench.cli import app
from flowbench.cli.arguments import (
    DRY_RUN,
    JOBS,
    JSON,
    LIMIT,
    LOGGER,
    SLURM,
    THROUGHPUT,
    complete,
    mirror_of,
    parse_seeds,
    sbatch_settings,
)
from flowbench.cli.lines import say
from flowbench.errors import CheckFailedError
from flowbench.system.interruption import Interrupted

if TYPE_CHECKING:
    from flowbench.reproduction.submission import Jobs

JOBS_ON_A_CLUSTER = 2


@app.command()
def reproduce(
    table: Annotated[
        str, typer.Argument(help="A table's name or YAML file.", autocompletion=complete("tables"))
    ] = "quick",
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Dotted overrides for the selected rows.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Titles of rows or names of data sets: --only ROW ROW ….")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="One run for each, e.g. 0,1,2.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where results go [default: `results/<table>`].")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit 1 where a figure lies outside its bounds.")] = False,
    jobs: JOBS = None,
    submit: Annotated[
        Literal["slurm", "local"] | None, typer.Option(help="Where: on Slurm, each run a job; or here, as without it.")
    ] = None,
    slurm: SLURM = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show rows, progress and time left: of the jobs, or of other processes.")
    ] = False,
    limit: LIMIT = None,
    logger: LOGGER = "mlflow",
    dry_run: DRY_RUN = False,
    throughput: THROUGHPUT = None,
    as_json: JSON = False,
) -> None:
    """Run every experiment of a table that is not done, then write results, tables and the report.

    Example: `flowbench reproduce real_nvp --only CIFAR-10 train.epochs=2 model.features=16`
    """
    from flowbench.reproduction import reproduce as reproduction

    if "=" in table:
        # The table may be left out: `flowbench reproduce train.steps=10` overrides in the default one.
        table, overrides = "quick", [table, *(overrides or [])]
    if only:
        # `--only ROW ROW …`: what follows the first one arrives among the overrides, and is none.
        only = [*only, *(word for word in overrides or [] if "=" not in word)]
        overrides = [word for word in overrides or [] if "=" in word]
    if limit is not None:
        overrides = [*(overrides or []), f"evaluate.limit={limit}"]
    selected: dict[str, Any] = {"only": only or (), "seeds": parse_seeds(seeds), "overrides": overrides or ()}
    if dry_run:
        from flowbench.cli.dry_run import print_plans
        from flowbench.system.threads import processes_at_a_time

        waiting = [one for one, _ in reproduction.unfinished(table, out=out, **selected)]
        number = max(min(jobs or processes_at_a_time(), len(waiting)), 1)
        print_plans(waiting, throughput=throughput, as_json=as_json, configs=False, at_a_time=number)
        return
    if watch and submit is None:
        reproduction.watch(table, out=out, say=typer.echo, **selected)
        return
    settings = sbatch_settings(submit, slurm)
    folder = out or Path("results") / Path(table).stem
    again = f"to go on: {shlex.join(['flowbench', *sys.argv[1:]])}"
    try:
        results = reproduction.reproduce(
            table,
            out=folder,
            jobs=jobs,
            progress=watch or submit != "slurm",
            cluster=_cluster(folder, jobs, settings, logger) if submit == "slurm" else None,
            again=again,
            mirror=mirror_of(logger),
            **selected,
        )
    except KeyboardInterrupt as stop:
        # Between two trainings, where nothing is half done.
        raise Interrupted(f"{folder}: stopped: {again}", signal.SIGINT) from stop
    if as_json:
        typer.echo(json.dumps(results))
    else:
        _print_table(results)
        typer.echo(f"\nreport: {folder / 'report.html'}")
    error = reproduction.failure(results, selected["only"])
    if error is not None:
        raise error
    if gate:
        _check_bounds(table, results)


def _cluster(folder: Path, jobs: int | None, settings: list[str], logger: str) -> "Jobs":
    from flowbench.reproduction.submission import Jobs

    return Jobs("slurm", folder / "jobs", jobs or JOBS_ON_A_CLUSTER, settings, logger)


def _check_bounds(table: str, results: dict[str, Any]) -> None:
    from flowbench.tables.bounds import outside, ungated
    from flowbench.tables.table import load_table

    loaded = load_table(table)
    lines = outside(loaded, results)
    for line in [*lines, *ungated(loaded, results)]:
        typer.echo(line, err=True)
    if lines:
        raise CheckFailedError(f"--gate: {len(lines)} of {len(results['rows'])} figures outside their bounds")


@app.command()
def report(
    sources: Annotated[
        list[str],
        typer.Argument(help="Results folders, runs, throughput files or folders of them, in the page's order."),
    ],
    out: Annotated[Path, typer.Option(help="The page's folder, or the page itself (a path that ends in .html).")],
    keep: Annotated[
        bool, typer.Option("--keep", help="Instead of a page, store the sources without weights in --out, to commit.")
    ] = False,
) -> None:
    """Write the HTML report again from stored results, with every table as CSV, Markdown and LaTeX beside it.

    Example: `flowbench report results/quick runs/real_nvp/cifar10/* --out page`

    Example: `flowbench report results/quick --keep --out reports/quick`
    """
    from flowbench.report import build_from
    from flowbench.report import keep as keep_sources

    if keep:
        for path in keep_sources(sources, out):
            typer.echo(path)
        return
    typer.echo(build_from(sources, out))


def _print_table(results: dict[str, Any]) -> None:
    from rich.console import Console

    from flowbench.report.terminal import on_terminal

    # A pipe has no width: lines are not folded there, so that they can be searched.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(on_terminal(results, console.width))
    for row in results["rows"]:
        if row["status"] in ("skipped", "failed"):
            say(f"{row['row']}, {row['experiment']}: {row['status']}: {row['reason']}")
