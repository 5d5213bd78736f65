"""What an experiment is called in results: a changed model is not to be taken for the preset."""

from collections.abc import Sequence
from typing import Any

from flowbench.config.experiments import load_experiment
from flowbench.config.schema import Experiment

__all__ = ["called", "changed_preset"]

TOLD = ("seed", "train.precision", "train.compile")
"""Keys that a name leaves out: figures do not depend on the first, results have fields of their own for the others."""


def called(name: str, changes: Sequence[str]) -> str:
    """Return what an experiment is called of which `changes`, `KEY=VALUE`, were made: a name or a path, and them."""
    return " ".join([name, *(change for change in changes if change.partition("=")[0] not in TOLD)])


def changed_preset(name: str, changes: Sequence[str]) -> Experiment[Any, Any]:
    """Return an experiment with changes under the name that says so; errors as those of `load_experiment`."""
    return load_experiment(name, changes).model_copy(update={"name": called(name, changes)})
