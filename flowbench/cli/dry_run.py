"""What `--dry-run` of `train` and `reproduce` prints: the plan of each run, and the whole."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from flowbench.config.schema import Experiment

__all__ = ["print_plans"]


def print_plans(
    experiments: "Sequence[Experiment[Any, Any]]",
    *,
    throughput: Path | None,
    as_json: bool,
    configs: bool,
    at_a_time: int | None = None,
) -> None:
    """Plan the experiments and print it, with their resolved configs where asked for.

    Args:
        experiments: what would be trained.
        throughput: a file of `flowbench throughput run` to take the speed from; None: measured here.
        as_json: as JSON, configs included.
        configs: print the resolved config of each above its plan.
        at_a_time: so many are trained side by side, each with one thread; None: one after the other.
    """
    from flowbench.config.experiments import dump_experiment
    from flowbench.errors import InputError
    from flowbench.planning import plan, stored_speed

    plans = []
    for experiment in experiments:
        speed = None if throughput is None else stored_speed(throughput, experiment)
        if throughput is not None and speed is None and not as_json:
            missing = "no training pass of this model, batch size and precision: as without the file"
            typer.echo(f"{experiment.name}: {throughput}: {missing}")
        try:
            one = plan(experiment, speed, one_thread=at_a_time is not None)
        except InputError as error:
            if not as_json:
                typer.echo(f"{experiment.name}, seed {experiment.seed}: cannot be planned: {error}")
            continue
        plans.append({**one.as_json(), "config": experiment.model_dump(mode="json", by_alias=True)})
        if not as_json:
            typer.echo("\n".join([*([dump_experiment(experiment)] if configs else []), *one.lines]))
    if as_json:
        typer.echo(json.dumps(plans))
    elif len(experiments) != 1:
        typer.echo(_in_all(plans, len(experiments), at_a_time or 1))


def _in_all(plans: "Sequence[dict[str, Any]]", runs: int, at_a_time: int) -> str:
    """Return the last line: how long all runs take."""
    from flowbench.system.durations import in_words

    known = [one["seconds"] for one in plans if one["seconds"] is not None]
    if not known:
        return f"in all: {runs} runs, time unknown"
    at_most = "at most " if any(one["busy"] for one in plans) else ""
    unknown = runs - len(known)
    beyond = f", and {unknown} whose time is unknown" if unknown else ""
    how = "one after the other" if at_a_time == 1 else f"{at_a_time} at a time"
    # Whatever runs beside it, nothing ends before its longest run.
    seconds = max(max(known), sum(known) / at_a_time)
    return f"in all: {runs} runs, {at_most}{in_words(seconds)} {how}{beyond}"
