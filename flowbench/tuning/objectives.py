"""What a study minimizes or maximizes, read from the result of a trial."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flowbench.config.schema import Experiment
from flowbench.errors import InputError, did_you_mean

__all__ = ["OBJECTIVES", "Objective", "objectives_of", "validated"]


@dataclass(frozen=True)
class Objective:
    """One figure of merit: where it stands in `result.json`, and which way is better."""

    direction: Literal["minimize", "maximize"]
    read: Callable[[Mapping[str, Any]], float]
    of: Callable[[Experiment[Any, Any]], bool] = lambda _: True
    """Whether an experiment has it."""


def _metric(name: str) -> Callable[[Mapping[str, Any]], float]:
    def read(result: Mapping[str, Any]) -> float:
        (metrics,) = result["metrics"].values()
        return float(metrics[name]["value"])

    return read


def _speed(unit: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda result: float(result["throughput"][f"train_{unit}_per_second"] or 0.0)


def _of_images(experiment: Experiment[Any, Any]) -> bool:
    return experiment.kind == "density"


def _of_forecasts(experiment: Experiment[Any, Any]) -> bool:
    return experiment.kind == "forecast"


def _of_distributions(experiment: Experiment[Any, Any]) -> bool:
    return bool(getattr(experiment.model, "distributions", False))


def _of_densities(experiment: Experiment[Any, Any]) -> bool:
    return bool(getattr(experiment.model, "has_density", False))


OBJECTIVES: Mapping[str, Objective] = {
    "bits_per_dim": Objective("minimize", _metric("bits_per_dim"), _of_images),
    "mae": Objective("minimize", _metric("mae"), _of_forecasts),
    "mse": Objective("minimize", _metric("mse"), _of_forecasts),
    "nll": Objective("minimize", _metric("nll"), _of_densities),
    "crps": Objective("minimize", _metric("crps"), _of_distributions),
    "parameters": Objective("minimize", lambda result: float(result["parameters"])),
    "images_per_second": Objective("maximize", _speed("images"), _of_images),
    "windows_per_second": Objective("maximize", _speed("windows"), _of_forecasts),
}


def objectives_of(experiment: Experiment[Any, Any]) -> dict[str, Objective]:
    """Return the objectives of the experiment's study, by name; where it names none bits/dim, NLL or MAE.

    Raises:
        InputError: an unknown objective, or one of another kind of experiment.
    """
    names = experiment.study.objectives or [validated(experiment)[0]]
    fitting = {name: one for name, one in OBJECTIVES.items() if one.of(experiment)}
    for name in names:
        if name not in fitting:
            raise InputError(f"{experiment.name}: study.objectives: unknown {name!r}{did_you_mean(name, fitting)}")
    if len(set(names)) < len(names):
        raise InputError(f"{experiment.name}: study.objectives: one stands twice")
    return {name: fitting[name] for name in names}


def validated(experiment: Experiment[Any, Any]) -> tuple[str, ...]:
    """Return the objectives that a validation measures, and a pruner can read; the first is the default one."""
    if experiment.kind == "density":
        return ("bits_per_dim",)
    return ("nll",) if _of_densities(experiment) else ("mae", "mse")
