"""Which runs' figures are of the same thing, so that one can be called better than the other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowbench.errors import InputError
from flowbench.runs.folder import RunFolder

__all__ = ["check_same_forecasts", "forecasts_of"]


def check_same_forecasts(runs: Sequence[RunFolder], said: str) -> None:
    """Raise InputError where forecasts are not of the same values: columns, steps ahead, and the protocol's windows.

    Args:
        runs: all of one kind; those that are no forecasts are let pass.
        said: how the runs are called, for the message.
    """
    if runs[0].experiment.kind != "forecast":
        return
    for what, of in _TOLD.items():
        different = list(dict.fromkeys(of(run) for run in runs))
        if len(different) > 1:
            raise InputError(f"{said}: forecasts of different {what}, {' and '.join(different)}: not comparable")
    if len({_scaler(run) for run in runs} - {None}) > 1:
        raise InputError(
            f"{said}: trained on files with other means and deviations: each normalizes its errors by its own, so they "
            "are not comparable"
        )


def forecasts_of(run: RunFolder) -> tuple[str, ...]:
    """Return what a forecast is of, as words: its horizon, its columns, its protocol; nothing of another model."""
    return () if run.experiment.kind != "forecast" else tuple(of(run) for of in _TOLD.values())


def _name(run: RunFolder) -> str:
    data: Mapping[str, Any] = run.environment.get("data", {})
    return str(data.get("name") or run.experiment.data.name)


def _columns(run: RunFolder) -> str:
    data: Mapping[str, Any] = run.environment.get("data", {})
    config = run.experiment.data
    return ", ".join(data.get("targets") or (config.features, *([] if config.features == "M" else [config.target])))


def _scaler(run: RunFolder) -> tuple[tuple[str, float, float], ...] | None:
    """Return the mean and deviation of each column that is forecast; None: the run does not say."""
    data: Mapping[str, Any] = run.environment.get("data", {})
    of = dict(zip(data.get("inputs", ()), zip(data.get("mean", ()), data.get("std", ()), strict=True), strict=True))
    return tuple((name, *of[name]) for name in data["targets"] if name in of) if "targets" in data else None


_TOLD: Mapping[str, Callable[[RunFolder], str]] = {
    "horizons": lambda run: str(run.experiment.data.horizon),
    "columns": _columns,
    "protocols": lambda run: str(run.experiment.data.protocol),
    "test files": lambda run: f"tested on {run.experiment.data.test_on or _name(run)}",
}
