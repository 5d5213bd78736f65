"""Experiments made in Python: by name, path or mapping, with changes as text or as values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbench.config.experiments import experiment_of, load_experiment
from flowbench.config.schema import Experiment

__all__ = ["as_experiment", "experiment"]


def experiment(what: str | Path | Mapping[str, Any], /, *overrides: str, **sections: Any) -> Experiment[Any, Any]:
    """Return a frozen, wholly validated experiment.

    Args:
        what: a name (`real_nvp/digits`), the path of a YAML file or of a run's `config.yaml`, or the content of one.
        *overrides: `KEY=VALUE` as on the command line, applied last.
        **sections: keys of the file as values; a mapping changes the keys of its section that it names.

    Raises:
        InputError: unknown name, key or value; the message names it and the nearest valid one.

    Examples:
        >>> import flowbench as fb
        >>> small = fb.experiment("real_nvp/digits", "model.features=8", train={"steps": 4}, seed=1)
        >>> small.model.features, small.train.steps, small.seed
        (8, 4, 1)
    """
    if isinstance(what, Mapping):
        return experiment_of(what, Path("experiment"), overrides, sections)
    return load_experiment(what, overrides, sections)


def as_experiment(what: Experiment[Any, Any] | str | Path | Mapping[str, Any]) -> Experiment[Any, Any]:
    """Return an experiment as it is, or make one of anything that `experiment` takes."""
    return what if isinstance(what, Experiment) else experiment(what)
