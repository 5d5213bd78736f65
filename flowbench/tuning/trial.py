"""One trial: a run in a folder of its own, told apart by `trial.json`, watched and pruned by its validations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import TrialPruned
from optuna.storages import RetryHeartbeatStaleTrialCallback

from flowbench import atomic
from flowbench.config import Experiment
from flowbench.errors import FlowbenchError, WorkFailedError
from flowbench.interruption import Interrupted
from flowbench.runs import RunFolder
from flowbench.training import train
from flowbench.tuning.objectives import Objective
from flowbench.tuning.space import experiment_with, suggest

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

    from flowbench.tracking import Mirror

__all__ = ["TRIAL", "Trials"]

TRIAL = "trial.json"


@dataclass
class Trials:
    """Makes runs of a study's trials; an instance is Optuna's objective.

    Args:
        base: the experiment's name or file.
        overrides: `KEY=VALUE`, in every trial.
        experiment: what both give: the trials differ from it in the searched keys only.
        folder: of the study: each trial's run is a folder in it.
        objectives: what is read from a trial's result.
        time_budget: seconds of each trial's steps; None: the experiment's steps or epochs.
        mirror: brings the runs into MLflow.
        show: told what became of each trial, in one line.
    """

    base: str | Path
    overrides: list[str]
    experiment: Experiment[Any, Any]
    folder: Path
    objectives: Mapping[str, Objective]
    time_budget: float | None
    mirror: "Mirror"
    show: Callable[[str], None]

    def __call__(self, trial: "Trial") -> float | Sequence[float]:
        """Train with suggested values and return the objectives.

        Raises:
            TrialPruned: the pruner gave it up.
            WorkFailedError: it diverged or ran out of memory.
            Interrupted: the worker was stopped; the trial's point waits in the study for whoever goes on.
        """
        chosen = suggest(trial, self.experiment.tune)
        # A killed worker's point is tried again under a new number: it goes on in the folder of the first try.
        first = RetryHeartbeatStaleTrialCallback.retried_trial_number(_frozen(trial))
        run = RunFolder(self.folder / f"trial-{trial.number if first is None else first:04d}")
        trial.set_user_attr("run", run.path.name)
        record = {"schema": 1, "study": trial.study.study_name, "number": trial.number, "chosen": chosen}

        def note(state: str, reason: str | None, values: Sequence[float] | None = None) -> None:
            atomic.write_json(run.path / TRIAL, {**record, "state": state, "reason": reason, "values": values})
            if state != "running":
                words = f": {reason}" if reason else ""
                self.show(f"trial {trial.number}: {state}{words} ({_told(chosen)}){_shown(self.objectives, values)}")
                self.mirror.done(run.path)

        note("running", None)
        try:
            values = self._train(trial, chosen, run)
        except TrialPruned as pruned:
            note("pruned", str(pruned))
            raise
        except Interrupted as interruption:
            note("interrupted", str(interruption))
            _try_again(trial.study, trial)
            raise
        except (FlowbenchError, MemoryError, RuntimeError) as error:
            reason = _reason(error)
            note("failed", reason)
            trial.set_user_attr("reason", reason)
            if isinstance(error, FlowbenchError) or not reason.startswith("out of memory"):
                raise
            raise WorkFailedError(reason) from error
        note("complete", None, values)
        return values if len(values) > 1 else values[0]

    def _train(self, trial: "Trial", chosen: Mapping[str, Any], run: RunFolder) -> list[float]:
        validations = 0

        def watch(step: int, figures: Mapping[str, float]) -> None:
            nonlocal validations
            validations += 1
            if len(self.objectives) > 1:
                return
            name = next(iter(self.objectives))
            if name in figures:
                trial.report(figures[name], validations)
                if trial.should_prune():
                    raise TrialPruned(f"{name} {figures[name]:.4f} at step {step}")

        experiment = experiment_with(self.base, self.overrides, chosen)
        result = train(
            experiment, run.path, resume=run.exists, time_budget=self.time_budget, mirror=self.mirror, watch=watch
        )
        return [objective.read(result) for objective in self.objectives.values()]


def _try_again(study: "Study", trial: "Trial") -> None:
    frozen = _frozen(trial)
    RetryHeartbeatStaleTrialCallback()(study, frozen)


def _frozen(trial: "Trial") -> Any:
    return next(one for one in trial.study.get_trials(deepcopy=False) if one.number == trial.number)


def _reason(error: Exception) -> str:
    if isinstance(error, FlowbenchError):
        return str(error)
    # torch.OutOfMemoryError is a RuntimeError; any other of those is a bug and must be seen.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory: search a smaller model or data.batch_size"
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _told(chosen: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in chosen.items()
    )


def _shown(objectives: Mapping[str, Objective], values: Sequence[float] | None) -> str:
    return (
        ""
        if values is None
        else "".join(f" {name} {value:.5g}" for name, value in zip(objectives, values, strict=True))
    )
