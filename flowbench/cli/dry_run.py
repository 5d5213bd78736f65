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
    experiments: "Sequence[Experiment[Any, Any]]", *, throughput: Path | None, as_json: bool, configs: bool
) -> None:
    """Plan the experiments and print it, with their resolved configs where asked for.

    Args:
        experiments: what would be trained.
        throughput: a file of `flowbench throughput run` to take the speed from; None: measured here.
        as_json: as JSON, configs included.
        configs: print the resolved config of each above its plan.
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
            one = plan(experiment, speed)
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
        typer.echo(_in_all(plans, len(experiments)))


def _in_all(plans: "Sequence[dict[str, Any]]", runs: int) -> str:
    """Return the last line: how long all runs take."""
    from flowbench.system.durations import in_words

    known = [one["seconds"] for one in plans if one["seconds"] is not None]
    if not known:
        return f"in all: {runs} runs, time unknown"
    at_most = "at most " if any(one["busy"] for one in plans) else ""
    unknown = runs - len(known)
    beyond = f", and {unknown} whose time is unknown" if unknown else ""
    return f"in all: {runs} runs, {at_most}{in_words(sum(known))} one after the other{beyond}"
