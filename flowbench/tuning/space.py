"""The search space of an experiment: checked before the first trial, suggested trial by trial."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbench.config import Experiment, Space, load_experiment
from flowbench.errors import InputError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

__all__ = ["check_space", "distributions", "experiment_with", "grid", "override", "suggest"]

GRID_POINTS = 10_000


def check_space(base: str | Path, overrides: list[str], experiment: Experiment[Any, Any]) -> None:
    """Build the experiment at the ends and choices of every searched key, so that no trial fails for its config.

    Raises:
        InputError: an empty space, a key that the experiment does not know, a value that it refuses, a condition on a
            key that is not searched.
    """
    if not experiment.tune:
        raise InputError(f"{experiment.name}: tune: searches nothing: give keys, e.g. model.features: {{int: [8, 64]}}")
    for key, space in experiment.tune.items():
        try:
            distribution(space)
        except ValueError as error:
            raise InputError(f"{experiment.name}: tune: {key}: {error}") from error
        for other, value in (space.when or {}).items():
            if other not in experiment.tune:
                raise InputError(f"{experiment.name}: tune: {key}: when: {other} is not searched")
            if value not in _values(experiment.tune[other]) and experiment.tune[other].categorical is not None:
                raise InputError(f"{experiment.name}: tune: {key}: when: {other} is never {value!r}")
        conditions = [override(other, value) for other, value in (space.when or {}).items()]
        for value in _values(space):
            try:
                load_experiment(base, [*overrides, *conditions, override(key, value)])
            except InputError as error:
                raise InputError(f"{experiment.name}: tune: {key}: the value {value!r}: {error}") from error


def suggest(trial: "Trial", space: Mapping[str, Space]) -> dict[str, Any]:
    """Return a value for every key that this trial searches: conditional ones only where their condition holds."""
    chosen: dict[str, Any] = {}
    waiting = dict(space)
    while waiting:
        ready = [key for key, one in waiting.items() if not (one.when or {}).keys() & waiting.keys()]
        if not ready:
            raise InputError(f"tune: {', '.join(waiting)}: the conditions go round in a circle")
        for key in ready:
            one = waiting.pop(key)
            if all(chosen.get(other) == value for other, value in (one.when or {}).items()):
                chosen[key] = _suggest(trial, key, one)
    return chosen


def distributions(space: Mapping[str, Space]) -> dict[str, "BaseDistribution"]:
    """Return Optuna's distribution of every searched key."""
    return {key: distribution(one) for key, one in space.items()}


def distribution(space: Space) -> "BaseDistribution":
    """Return Optuna's distribution of one key; ValueError says what is wrong with its bounds."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if space.categorical is not None:
        return CategoricalDistribution([_choice(value) for value in space.categorical])
    if space.int_ is not None:
        step = 1 if space.step is None else int(space.step)
        if step != (space.step or 1):
            raise ValueError(f"step {space.step} of whole numbers is no whole number")
        return IntDistribution(*space.int_, log=space.log, step=step)
    assert space.float_ is not None
    return FloatDistribution(*space.float_, log=space.log, step=space.step)


def grid(name: str, space: Mapping[str, Space]) -> dict[str, list[Any]]:
    """Return every value of every key, for `sampler: grid`.

    Raises:
        InputError: a key without a finite list of values, a conditional key, or too many points.
    """
    points, values = 1, {}
    for key, one in space.items():
        if one.when:
            raise InputError(f"{name}: tune: {key}: when: a grid has no conditions: use another study.sampler")
        if one.float_ is not None and one.step is None:
            raise InputError(f"{name}: tune: {key}: a grid needs a step: {{float: [low, high], step: s}}")
        values[key] = [_choice(value) for value in one.categorical] if one.categorical is not None else _steps(one)
        points *= len(values[key])
    if points > GRID_POINTS:
        raise InputError(f"{name}: tune: a grid of {points:,} points: give fewer values, or another study.sampler")
    return values


def experiment_with(base: str | Path, overrides: list[str], chosen: Mapping[str, Any]) -> Experiment[Any, Any]:
    """Return the experiment with the chosen values."""
    return load_experiment(base, [*overrides, *(override(key, value) for key, value in chosen.items())])


def override(key: str, value: Any) -> str:
    """Return `KEY=VALUE` as the command line has it."""
    import json

    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def _suggest(trial: "Trial", key: str, space: Space) -> Any:
    if space.categorical is not None:
        choices = [_choice(value) for value in space.categorical]
        return space.categorical[choices.index(trial.suggest_categorical(key, choices))]
    if space.int_ is not None:
        return trial.suggest_int(key, *space.int_, log=space.log, step=int(space.step or 1))
    assert space.float_ is not None
    return trial.suggest_float(key, *space.float_, log=space.log, step=space.step)


def _choice(value: Any) -> bool | int | float | str | None:
    # Optuna keeps plain values only; a list (say, betas) is known by its text.
    return value if value is None or isinstance(value, bool | int | float | str) else override("", value)[1:]


def _values(space: Space) -> list[Any]:
    """Return the choices, or the ends of the range: whatever a config refuses, it refuses there first."""
    if space.categorical is not None:
        return space.categorical
    return list(space.int_ or space.float_ or ())


def _steps(space: Space) -> list[Any]:
    if space.int_ is not None:
        return list(range(space.int_[0], space.int_[1] + 1, int(space.step or 1)))
    return list(_float_steps(space))


def _float_steps(space: Space) -> Iterator[float]:
    assert space.float_ is not None
    assert space.step is not None
    low, high = space.float_
    for index in range(int((high - low) / space.step + 1e-9) + 1):
        yield low + index * space.step
