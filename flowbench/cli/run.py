"""`flowbench train`, `evaluate`, `figures`: one run at a time."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flowbench.cli import app
from flowbench.cli.arguments import (
    DRY_RUN,
    EXPERIMENT,
    JSON,
    LIMIT,
    LOGGER,
    OVERRIDES,
    RUN,
    THROUGHPUT,
    mirror_of,
    parse_duration,
    parse_seeds,
)
from flowbench.cli.lines import say

if TYPE_CHECKING:
    from flowbench.config.schema import Experiment
    from flowbench.tracking import Mirror


@app.command()
def train(
    experiment: EXPERIMENT,
    overrides: OVERRIDES = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="The run folder [default: `runs/<experiment>/<run id>`].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run.")] = False,
    seeds: Annotated[str | None, typer.Option(help="Train once for each, e.g. 0,1,2.")] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="Stop the steps after this time, e.g. 20m; compiling is not counted.")
    ] = None,
    limit: LIMIT = None,
    logger: LOGGER = "mlflow",
    dry_run: DRY_RUN = False,
    throughput: THROUGHPUT = None,
    as_json: JSON = False,
) -> None:
    """Train one experiment and evaluate it.

    Example: `flowbench train real_nvp/digits train.steps=500 model.features=16`
    """
    from flowbench.config.experiments import load_experiment

    budget = parse_duration(time_budget)
    changes = [*(overrides or []), *([] if limit is None else [f"evaluate.limit={limit}"])]
    wanted = parse_seeds(seeds)
    experiments = [load_experiment(experiment, [*changes, f"seed={seed}"]) for seed in wanted or []]
    if dry_run:
        from flowbench.cli.dry_run import print_plans

        planned = experiments or [load_experiment(experiment, changes)]
        print_plans(planned, throughput=throughput, as_json=as_json, configs=True)
        return
    folders = [run_dir / f"seed{seed}" if run_dir else None for seed in wanted or []]
    pairs = zip(experiments or [load_experiment(experiment, changes)], folders or [run_dir], strict=True)
    with mirror_of(logger) as mirror:
        for one, folder in pairs:
            _train_one(
                one, folder, resume=resume, one_of_many=bool(wanted), budget=budget, mirror=mirror, as_json=as_json
            )


def _train_one(
    experiment: "Experiment[Any, Any]",
    run_dir: Path | None,
    *,
    resume: bool,
    one_of_many: bool,
    budget: float | None,
    mirror: "Mirror",
    as_json: bool,
) -> None:
    from flowbench.runs.folder import RunFolder, run_path_of
    from flowbench.system.processes import from_leader, join, leads
    from flowbench.tracking import EventMirror
    from flowbench.training.loop import train as train_experiment

    join()
    # The first process alone looks: it would make the folder that the others then find taken.
    path = from_leader(lambda: run_path_of(experiment, run_dir, resume=resume, one_of_many=one_of_many))
    folder = RunFolder(path)
    done = from_leader(lambda: folder.finished)
    if leads() and not done:
        _warn_of_a_busy_machine()
    result = train_experiment(experiment, folder.path, resume=resume, time_budget=budget, mirror=mirror, progress=True)
    if not leads():
        return
    if done and isinstance(mirror, EventMirror):
        mirror.follow(folder.path)  # it may have been trained without
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{folder.path}: {'was finished already' if done else 'finished'}")
    for split, metrics in result["metrics"].items():
        _print_metrics(split, metrics)
    _print_notes(result)
    if any(folder.figures.glob("*")):
        typer.echo(f"pictures: {folder.figures}")
    if isinstance(mirror, EventMirror):
        typer.echo(f"curves: tensorboard --logdir {shlex.quote(str(folder.path))}")


def _warn_of_a_busy_machine() -> None:
    import torch

    from flowbench.system.load import busy

    crowd = None if torch.cuda.is_available() else busy(torch.get_num_threads())
    if crowd is not None:
        typer.echo(f"this machine is busy already ({crowd}): expect it to take longer", err=True)


@app.command()
def evaluate(
    run: RUN,
    split: Annotated[str | None, typer.Option(help="Which part [default: the set's report split].")] = None,
    data: Annotated[str | None, typer.Option(help="Another data set (or CSV file, for forecasts).")] = None,
    draws: Annotated[int | None, typer.Option(min=1, help="Draws of noise per image.")] = None,
    importance: Annotated[int | None, typer.Option(min=2, help="Samples of the importance-weighted bound.")] = None,
    batch_norm: Annotated[Literal["running", "population"] | None, typer.Option(help="Statistics to use.")] = None,
    weights: Annotated[Literal["raw", "ema"] | None, typer.Option(help="Weights to use.")] = None,
    samples: Annotated[int | None, typer.Option(min=2, help="Also FID and KID of that many samples.")] = None,
    limit: LIMIT = None,
    as_json: JSON = False,
) -> None:
    """Measure a run's checkpoint exactly.

    Example: `flowbench evaluate real_nvp/digits --draws 16 --importance 64`
    """
    from flowbench.evaluation.measuring import Request
    from flowbench.runs.folder import find_run
    from flowbench.tasks.loading import Stopped, evaluate_run

    request = Request(split, data, draws, importance, batch_norm, weights, samples, limit)
    content, path = evaluate_run(find_run(run), request)
    if as_json:
        typer.echo(json.dumps(content))
        return
    stopped = [str(Stopped(**content["stopped"]))] if "stopped" in content else []
    for name, metrics in content["metrics"].items():
        _print_metrics(name, metrics, stopped)
    _print_notes(content)
    typer.echo(f"written to {path}")


@app.command()
def figures(
    run: RUN,
    kind: Annotated[
        str | None, typer.Option(help="Which, with commas, e.g. samples,manifold [default: all that the run allows].")
    ] = None,
) -> None:
    """Draw a run's pictures from its checkpoint: the same run gives the same pictures.

    Example: `flowbench figures real_nvp/digits --kind samples,manifold`
    """
    from flowbench.figures.drawing import draw_run
    from flowbench.runs.folder import find_run
    from flowbench.tracking import Mirror, read_mlflow_run_id

    folder = find_run(run)
    drawn = draw_run(folder, None if kind is None else [name.strip() for name in kind.split(",")])
    for line in drawn.left_out:
        typer.echo(f"left out: {line}", err=True)
    for path in drawn.paths:
        typer.echo(path)
    if read_mlflow_run_id(folder.path) is not None:
        with Mirror() as mirror:
            mirror.follow(folder.path)


def _print_metrics(split: str, metrics: dict[str, Any], also: Sequence[str] = ()) -> None:
    from flowbench.config.metric_words import remarks, value_in_words

    for name, metric in metrics.items():
        labels = {key: metric[key] for key in _LABELS if metric.get(key) is not None}
        described = [f"{key.replace('_', ' ')} {value}" for key, value in labels.items()]
        described += [*remarks(name, metric), *also]
        say(f"{split}: {name} {value_in_words(metric)}  ({', '.join(described)})")


def _print_notes(content: dict[str, Any]) -> None:
    for note in content.get("notes", []):
        say(f"note: {note}", err=True)


_LABELS = (
    "n",
    "levels",
    "dequantization",
    "draws",
    "K",
    "bound",
    "batch_norm",
    "weights",
    "resample",
    "samples",
    "limited",
)
