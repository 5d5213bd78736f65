"""`flowbench tune`: a study over an experiment's search space; any number of processes may join it."""

import json
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flowbench.cli import app
from flowbench.cli.arguments import (
    JOBS,
    JSON,
    LOGGER,
    OVERRIDES,
    SLURM,
    STORAGE,
    complete,
    mirror_of,
    parse_duration,
    sbatch_settings,
)
from flowbench.cli.lines import say

if TYPE_CHECKING:
    from flowbench.comparison.study import Outcome

JOBS_ON_A_CLUSTER = 4


@app.command()
def tune(
    experiment: Annotated[
        str,
        typer.Argument(
            help="An experiment with a tune: section: its name or YAML file.", autocompletion=complete("experiments")
        ),
    ],
    overrides: OVERRIDES = None,
    trials: Annotated[int, typer.Option(min=1, help="Until so many of the study are complete or pruned.")] = 20,
    study: Annotated[str | None, typer.Option(help="The study's name [default: the experiment's].")] = None,
    storage: STORAGE = "sqlite:///optuna.db",
    time_budget: Annotated[str | None, typer.Option(help="Of each trial's steps, e.g. 5m.")] = None,
    processes: Annotated[
        int, typer.Option("--nproc-per-node", min=1, help="Train each trial by so many processes: one for each GPU.")
    ] = 1,
    jobs: JOBS = None,
    submit: Annotated[
        Literal["slurm", "local"] | None,
        typer.Option(help="Where: on Slurm, each worker a job; or here, as without it."),
    ] = None,
    slurm: SLURM = None,
    logger: LOGGER = "mlflow",
    as_json: JSON = False,
) -> None:
    """Search the experiment's tune: space; a study of that name goes on, and other workers may join it.

    Example: `flowbench tune real_nvp/cifar10-small --trials 30`
    """
    settings = sbatch_settings(submit, slurm)
    if submit == "slurm":
        command = ["tune", experiment, *(overrides or []), "--trials", str(trials), "--jobs", "1"]
        command += ["--logger", logger]
        command += ["--study", study] if study else []
        command += ["--time-budget", time_budget] if time_budget else []
        command += ["--nproc-per-node", str(processes)] if processes > 1 else []
        _submit(command, jobs or JOBS_ON_A_CLUSTER, storage, settings)
        return
    from flowbench.comparison.study import outcome_of
    from flowbench.planning.estimate import needed_memory
    from flowbench.tuning import tune as run_study

    with mirror_of(logger) as mirror:
        studied = run_study(
            experiment,
            trials,
            overrides=overrides or [],
            study=study,
            storage=storage,
            time_budget=parse_duration(time_budget),
            processes=processes,
            jobs=_trials_at_a_time(jobs, trials, processes),
            memory=needed_memory,
            mirror=mirror,
            show=lambda line: say(line, err=True),
            progress=True,
        )
        outcome = outcome_of(studied)
    if as_json:
        typer.echo(json.dumps(asdict(outcome), default=str))
        return
    _print_outcome(outcome)
    typer.echo(_dashboard(storage))
    if outcome.command:
        typer.echo(f"train it in full: {outcome.command}")


def _print_outcome(outcome: "Outcome") -> None:
    typer.echo(f"{outcome.study}: {outcome.complete} complete, {outcome.pruned} pruned, {outcome.failed} failed")
    # With one objective the recommendation names the best.
    for one in outcome.best if len(outcome.best) > 1 or not outcome.recommendation else []:
        values = ", ".join(f"{name} {value:.5g}" for name, value in zip(outcome.objectives, one["values"], strict=True))
        chosen = " ".join(f"{key}={value}" for key, value in one["chosen"].items())
        say(f"best: trial {one['number']}: {values}: {chosen}")
    for line in outcome.recommendation:
        say(line)
    if outcome.page:
        typer.echo(f"plots: {outcome.page}")


def _dashboard(storage: str) -> str:
    """Return how one looks at a study in Optuna's own pages."""
    from flowbench.system.credentials import has_credentials

    if storage.startswith("grpc://"):
        return "Optuna's dashboard: optuna-dashboard URL, with the address of the database behind the proxy"
    shown = '"$OPTUNA_STORAGE"' if has_credentials(storage) else shlex.quote(storage)
    return f"Optuna's dashboard (pip install optuna-dashboard): optuna-dashboard {shown}"


def _trials_at_a_time(jobs: int | None, trials: int, processes: int) -> int:
    if jobs is None and (trials == 1 or processes > 1):
        return 1
    from flowbench.system.threads import processes_at_a_time

    return jobs or processes_at_a_time()


def _submit(command: list[str], workers: int, storage: str, slurm: list[str]) -> None:
    from flowbench.tuning.submit import submit_workers

    for job in submit_workers(command, "slurm", workers, storage=storage, settings=slurm):
        typer.echo(f"job {job.job_id}: {job.paths.stdout}")
    typer.echo("look at the study at any time: flowbench compare --study NAME --storage URL")
