"""A trained run, brought back: its model as reported, and another evaluation of it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowbench.config.extensions import changed_imports
from flowbench.densities.flows.normalization import BatchStatistics
from flowbench.errors import InputError
from flowbench.evaluation.measuring import Request
from flowbench.evaluation.weights import WeightAverage
from flowbench.runs.folder import RunFolder, find_run
from flowbench.runs.same_data import check_same_data
from flowbench.system.atomic import write_json
from flowbench.system.device import default_device, prepare_to_compute
from flowbench.system.progress import warn
from flowbench.tasks.task import Task, build_model, make_task

__all__ = ["Stopped", "evaluate_run", "load_run", "reported_step", "stopped_at"]


@dataclass(frozen=True)
class Stopped:
    """Where a run stands that has not come to its end: its figures are not those that it will report."""

    step: int
    steps: int | None
    """That it trains for; None: it counts epochs."""
    epoch: int
    """Whole ones that are done."""
    epochs: int | None

    def __str__(self) -> str:
        if self.epochs is None:
            return f"stopped at step {self.step:,} of {self.steps:,}"
        return f"stopped at step {self.step:,}, in epoch {min(self.epoch + 1, self.epochs):,} of {self.epochs:,}"


def load_run(run: str | Path) -> nn.Module:
    """Return a run's model in evaluation mode, with the weights and batch-norm statistics that it reports.

    Of an unfinished run with moving averages and batch normalization these are the last weights, as a warning says.

    Needs no data set: what the model must know of the data is in the run folder. Where a module of one's own that it
    was trained with is another one now, a warning says so.

    Args:
        run: a run folder, `<experiment>/<run id>` or an experiment's name (its newest finished run).

    Raises:
        InputError: no such run, no sound checkpoint, or one of another model.
    """
    folder = find_run(str(run))
    experiment = folder.experiment
    if (line := changed_imports(folder.environment.get("imports", []))) is not None:
        warn(f"{folder.path}: {line}")
    prepare_to_compute()  # also where somebody moves it to a GPU
    model = build_model(experiment, folder.environment["data"])
    state = _load_state(folder, model)
    averages = state["ema"] if experiment.weights == "ema" else {}
    normalized = any(isinstance(module, BatchStatistics) for module in model.modules())
    if averages and normalized and not state["population"]:
        warn(
            f"{folder.path}: not finished: these are the last weights; their moving averages get batch-norm statistics "
            "of their own at the training's end"
        )
        averages = {}
    model.load_state_dict({**state["model"], **averages, **state["population"]})
    return model.eval()


def evaluate_run(run: RunFolder, request: Request) -> tuple[dict[str, Any], Path]:
    """Evaluate a run's checkpoint as asked; return the content of the file in `evaluations/`, and the file.

    Raises:
        InputError: the run's data lie here with another content, and `request.data` does not ask for them.
    """
    if request.data is None:
        check_same_data(run)
    finished = run.finished
    task, average, state = _reopen(run, request.data)
    content, path = task.measure(run, average, request)
    line = changed_imports(run.environment.get("imports", []))
    if line is not None:
        content["notes"] = [*content["notes"], line]
    if not finished:
        content["stopped"] = asdict(_stopped(run, state))
    if line is not None or not finished:
        write_json(path, content)
    return content, path


def reported_step(run: RunFolder) -> int:
    """Return the step that a run's reported weights are from: under `train.keep: best` that of the best ones.

    Raises:
        InputError: no sound checkpoint.
    """
    state = _load_checkpoint(run)
    # An exported model has the reported weights alone.
    best: dict[str, Any] = state.get("best", {"model": {}})
    # Until its end such a run goes on from its last weights; then the best ones take their place.
    in_place = best["model"] and all(torch.equal(value, state["model"][name]) for name, value in best["model"].items())
    return int(best["step"] if in_place else state["step"])


def stopped_at(run: RunFolder) -> Stopped | None:
    """Return where a run's checkpoint stands if the run is not finished; None: it is.

    Raises:
        InputError: no sound checkpoint.
    """
    if run.finished:
        return None
    return _stopped(run, _load_checkpoint(run))


def _stopped(run: RunFolder, state: dict[str, Any]) -> Stopped:
    train = run.experiment.train
    with run.reading_checkpoint():
        return Stopped(int(state["step"]), train.steps, int(state["epoch"]), train.epochs)


def _reopen(run: RunFolder, data: str | None) -> tuple[Task, WeightAverage | None, dict[str, Any]]:
    """Bring back a run's task with the weights of its checkpoint, on its own data or, for a forecaster, on others."""
    experiment = run.experiment
    device = default_device()
    task: Task
    if data is not None and experiment.kind == "forecast":
        from flowbench.tasks.forecast import on_other_data

        task = on_other_data(run, data, device)
    else:
        task = make_task(experiment, device, run.environment["data"])
    state = _load_state(run, task.model)
    task.model.load_state_dict(state["model"])
    average = WeightAverage(task.model, experiment.train.ema) if experiment.train.ema else None
    if average:
        average.load_state_dict(state["ema"])
    return task, average, state


def _load_state(folder: RunFolder, model: nn.Module) -> dict[str, Any]:
    """Return the folder's newest sound checkpoint, checked against the model's names and shapes."""
    state = _load_checkpoint(folder)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with folder.reading_checkpoint():
        found = {name: tuple(tensor.shape) for name, tensor in state["model"].items()}
    if expected != found:
        name = next(iter(sorted(expected.items() ^ found.items())))[0]
        raise InputError(
            f"{folder.path / 'checkpoint.pt'}: not of this run's model: {name} is missing, new or misshapen: "
            "was config.yaml changed? put it back, or train in a new folder"
        )
    return state


def _load_checkpoint(folder: RunFolder) -> dict[str, Any]:
    loaded = folder.load_checkpoint()
    if loaded is None:
        raise InputError(f"{folder.path}: has no checkpoint yet")
    return loaded[0]
