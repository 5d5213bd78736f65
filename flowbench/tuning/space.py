"""The search space of an experiment: checked before the first trial, suggested trial by trial."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbench.config.experiments import load_experiment
from flowbench.config.schema import Experiment, Space
from flowbench.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["check_space", "choice", "experiment_with", "in_order", "override", "suggest"]


def check_space(base: str | Path, overrides: Sequence[str], experiment: Experiment[Any, Any]) -> None:
    """Build the experiment at the ends and choices of every searched key, so that no trial fails for its config.

    Args:
        base: the experiment's name or file.
        overrides: `KEY=VALUE`, in every trial.
        experiment: what both give.

    Raises:
        InputError: an empty space, a key that the experiment does not know, a value that it refuses, conditions that
            can never hold; the message names file and key.
    """
    space = experiment.tune
    if not space:
        raise InputError(f"{base}: tune: searches nothing: give keys, for example model.features: {{int: [8, 64]}}")
    in_order(base, space)
    for key, one in space.items():
        for other, value in (one.when or {}).items():
            if not _possible(space[other], value):
                raise InputError(f"{base}: tune.{key}: when: {other} is never {value!r}")
        conditions = [override(other, value) for other, value in (one.when or {}).items()]
        for value in _corners(one):
            try:
                load_experiment(base, [*overrides, *conditions, override(key, value)])
            except InputError as error:
                reason = str(error).removeprefix("override ").removeprefix(f"{base}: ").removeprefix(f"{key}: ")
                raise InputError(f"{base}: tune.{key}: the value {value!r}: {reason}") from error


def in_order(base: str | Path, space: Mapping[str, Space]) -> list[str]:
    """Return the searched keys, each after those that its condition looks at.

    Raises:
        InputError: a condition on a key that is not searched, or conditions that go round in a circle.
    """
    ordered: list[str] = []
    waiting = list(space)
    while waiting:
        ready = [key for key in waiting if (space[key].when or {}).keys() <= set(ordered)]
        if not ready:
            for key in waiting:
                for other in (space[key].when or {}).keys() - space.keys():
                    near = did_you_mean(other, space)
                    raise InputError(f"{base}: tune.{key}: when: {other} is not searched{near}")
            raise InputError(f"{base}: tune.{waiting[0]}: when: the conditions go round in a circle")
        ordered += ready
        waiting = [key for key in waiting if key not in ready]
    return ordered


def suggest(trial: "Trial", space: Mapping[str, Space]) -> dict[str, Any]:
    """Return a value for every key that is searched in this trial: a conditional one only where its condition holds."""
    chosen: dict[str, Any] = {}
    for key in in_order("", space):
        conditions = space[key].when or {}
        if all(other in chosen and chosen[other] == value for other, value in conditions.items()):
            chosen[key] = _suggest(trial, key, space[key])
    return chosen


def experiment_with(base: str | Path, overrides: Sequence[str], chosen: Mapping[str, Any]) -> Experiment[Any, Any]:
    """Return the experiment with the chosen values."""
    return load_experiment(base, [*overrides, *(override(key, value) for key, value in chosen.items())])


def override(key: str, value: Any) -> str:
    """Return `KEY=VALUE` as the command line takes it; JSON is YAML, so that texts stay texts and lists stay lists."""
    return f"{key}={json.dumps(value)}"


def choice(value: Any) -> bool | int | float | str | None:
    """Return a categorical choice as Optuna keeps it: plain values as they are, others (say, betas) as JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _suggest(trial: "Trial", key: str, space: Space) -> Any:
    if space.categorical is not None:
        choices = [choice(value) for value in space.categorical]
        return space.categorical[choices.index(trial.suggest_categorical(key, choices))]
    if space.int_ is not None:
        return trial.suggest_int(key, *space.int_, log=space.log, step=int(space.step or 1))
    assert space.float_ is not None
    return trial.suggest_float(key, *space.float_, log=space.log, step=space.step)


def _corners(space: Space) -> list[Any]:
    """Return the choices, or the ends of the range: whatever a config refuses, it refuses there first."""
    return space.categorical if space.categorical is not None else list(space.int_ or space.float_ or ())


def _possible(space: Space, value: Any) -> bool:
    if space.categorical is not None:
        return value in space.categorical
    low, high = _corners(space)
    return isinstance(value, int | float) and low <= value <= high
