"""What a study minimizes or maximizes, read from the result of a trial."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flowbench.config.schema import Experiment
from flowbench.errors import InputError, did_you_mean

__all__ = ["OBJECTIVES", "Objective", "objectives_of"]


@dataclass(frozen=True)
class Objective:
    """One figure of merit: where it stands in `result.json`, and which way is better."""

    direction: Literal["minimize", "maximize"]
    read: Callable[[Mapping[str, Any]], float]
    kind: Literal["density", "forecast"] | None = None
    """The kind of experiment that has it; None: both."""


def _metric(name: str) -> Callable[[Mapping[str, Any]], float]:
    def read(result: Mapping[str, Any]) -> float:
        (metrics,) = result["metrics"].values()
        return float(metrics[name]["value"])

    return read


def _speed(unit: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda result: float(result["throughput"][f"train_{unit}_per_second"] or 0.0)


OBJECTIVES: Mapping[str, Objective] = {
    "bits_per_dim": Objective("minimize", _metric("bits_per_dim"), "density"),
    "mae": Objective("minimize", _metric("mae"), "forecast"),
    "mse": Objective("minimize", _metric("mse"), "forecast"),
    "parameters": Objective("minimize", lambda result: float(result["parameters"])),
    "images_per_second": Objective("maximize", _speed("images"), "density"),
    "windows_per_second": Objective("maximize", _speed("windows"), "forecast"),
}


def objectives_of(experiment: Experiment[Any, Any]) -> dict[str, Objective]:
    """Return the objectives of the experiment's study, by name; bits/dim or MAE where it names none.

    Raises:
        InputError: an unknown objective, or one of another kind of experiment.
    """
    names = experiment.study.objectives or ["bits_per_dim" if experiment.kind == "density" else "mae"]
    fitting = {name: one for name, one in OBJECTIVES.items() if one.kind in (None, experiment.kind)}
    for name in names:
        if name not in fitting:
            raise InputError(f"{experiment.name}: study.objectives: unknown {name!r}{did_you_mean(name, fitting)}")
    if len(set(names)) < len(names):
        raise InputError(f"{experiment.name}: study.objectives: one stands twice")
    return {name: fitting[name] for name in names}
