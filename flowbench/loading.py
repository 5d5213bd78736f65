"""A trained run, brought back: its model with the weights and statistics that its figures were measured with."""

from pathlib import Path
from typing import Any

from torch import nn

from flowbench.config import Experiment
from flowbench.errors import InputError
from flowbench.runs import RunFolder, find_run

__all__ = ["load_run", "load_state"]


def load_run(run: str | Path) -> nn.Module:
    """Return a run's model in evaluation mode, with the weights and batch-norm statistics that it reports.

    Needs no data set: what the model must know of the data is in the run folder.

    Args:
        run: a run folder, `<experiment>/<run id>` or an experiment's name (its newest finished run).

    Raises:
        InputError: no such run, no sound checkpoint, or one of another model.
    """
    folder = find_run(str(run))
    experiment = folder.experiment
    model = _build(experiment, folder.environment["data"])
    state = load_state(folder, model)
    averages = state["ema"] if experiment.weights == "ema" else {}
    model.load_state_dict({**state["model"], **averages, **state["population"]})
    return model.eval()


def load_state(folder: RunFolder, model: nn.Module) -> dict[str, Any]:
    """Return the folder's newest sound checkpoint, checked against the model's names and shapes."""
    loaded = folder.load_checkpoint()
    if loaded is None:
        raise InputError(f"{folder.path}: has no checkpoint yet")
    state, _ = loaded
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state["model"].items()}
    if expected != found:
        name = next(iter(sorted(expected.items() ^ found.items())))[0]
        raise InputError(
            f"{folder.path / 'checkpoint.pt'}: not of this run's model: {name} is missing, new or misshapen"
        )
    return state


def _build(experiment: Experiment[Any, Any], data: dict[str, Any]) -> nn.Module:
    if experiment.kind == "forecast":
        from flowbench.forecast_task import build_forecaster

        return build_forecaster(experiment, data)
    from flowbench.density_task import build_density

    return build_density(experiment, data)
