"""One trial: a run in a folder of its own, told apart by `trial.json`, watched and pruned by its validations."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import TrialPruned
from optuna.trial import TrialState

from flowbench.config.schema import Experiment
from flowbench.errors import FlowbenchError, WorkFailedError, is_out_of_memory
from flowbench.runs.folder import RunFolder
from flowbench.system import atomic
from flowbench.system.interruption import Interrupted, StopRequest
from flowbench.system.progress import numbered
from flowbench.training.loop import train
from flowbench.tuning.grid import GridExhaustedError
from flowbench.tuning.objectives import Objective
from flowbench.tuning.sampling import validations
from flowbench.tuning.space import experiment_with, suggest
from flowbench.tuning.storage import retried
from flowbench.tuning.together import train_together

if TYPE_CHECKING:
    from optuna.trial import Trial

    from flowbench.tracking import Mirror

__all__ = ["SURPLUS", "TRIAL", "Trials"]

TRIAL = "trial.json"
SURPLUS = "surplus"
"""User attribute of a trial that a worker took when the grid had no point left."""


@dataclass
class Trials:
    """Makes runs of a study's trials; an instance is Optuna's objective.

    Args:
        base: the experiment's name or file.
        overrides: `KEY=VALUE`, in every trial.
        experiment: what both give: the trials differ from it in the searched keys only.
        folder: of the study: each trial's run is a folder in it.
        uid: of the study: MLflow's parent run is known by it.
        objectives: what is read from a trial's result.
        time_budget: seconds of each trial's steps; None: the experiment's steps or epochs.
        mirror: brings the runs into MLflow.
        show: told what became of each trial, in one line.
        stop: what asks this worker to stop.
        processes: that train each trial together, through torchrun; 1: this one.
        progress: draw a bar on stderr.
    """

    base: str | Path
    overrides: Sequence[str]
    experiment: Experiment[Any, Any]
    folder: Path
    uid: str
    objectives: Mapping[str, Objective]
    time_budget: float | None
    mirror: "Mirror"
    show: Callable[[str], None]
    stop: StopRequest
    processes: int = 1
    progress: bool = False

    def __call__(self, trial: "Trial") -> float | Sequence[float]:
        """Train with suggested values and return the objectives.

        Raises:
            TrialPruned: the pruner gave it up.
            WorkFailedError: this trial failed: it diverged, ran out of memory, or its data do not allow its config.
            Interrupted: the worker is stopped; the trial waits in the study for whoever goes on.
        """
        try:
            return self._run(trial)
        except GridExhaustedError:
            trial.set_user_attr(SURPLUS, True)
            trial.study.stop()
            raise WorkFailedError("the grid has no point left") from None
        except (Interrupted, KeyboardInterrupt) as error:
            # The same trial, not a new one: a study that is stopped and goes on is the one that was never stopped.
            trial.study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            # Optuna would note a KeyboardInterrupt as the trial's failure.
            number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(str(error) or "stopped", number) from error

    def _run(self, trial: "Trial") -> float | Sequence[float]:
        chosen = suggest(trial, self.experiment.tune)
        if self.stop.signal is not None:
            raise Interrupted("stopped before it began", self.stop.signal)
        # A killed worker's point is tried again under a new number: it goes on in the folder of the first try.
        first = retried(trial.study._storage.get_trial(trial._trial_id))
        run = RunFolder(self.folder / f"trial-{trial.number if first is None else first:04d}")
        trial.set_user_attr("run", run.path.name)
        record = {"schema": 1, "study": trial.study.study_name, "study_uid": self.uid, "number": trial.number}
        record["objectives"] = {name: one.direction for name, one in self.objectives.items()}

        def note(state: str, reason: str | None = None, values: Sequence[float] | None = None) -> None:
            content = {**record, "chosen": chosen, "state": state, "reason": reason, "values": values}
            atomic.write_json(run.path / TRIAL, content)
            if state != "running":
                words = f": {reason}" if reason else ""
                self.show(f"trial {trial.number}: {state}{words}{self._shown(values)} ({_told(chosen)})")
                self.mirror.done(run.path)

        note("running")
        try:
            values = self._train(trial, chosen, run)
        except TrialPruned as pruned:
            note("pruned", str(pruned))
            trial.set_user_attr("reason", str(pruned))
            raise
        except Interrupted:
            note("interrupted", "goes on with the study")
            raise
        except (FlowbenchError, MemoryError, RuntimeError) as error:
            reason = _reason(error)
            note("failed", reason)
            trial.set_user_attr("reason", reason)
            if not isinstance(error, FlowbenchError) and not reason.startswith("out of memory"):
                raise
            raise WorkFailedError(reason) from error
        note("complete", values=values)
        return values if len(values) > 1 else values[0]

    def _train(self, trial: "Trial", chosen: Mapping[str, Any], run: RunFolder) -> list[float]:
        def watch(step: int, figures: Mapping[str, float]) -> None:
            (name, *others) = self.objectives
            if others or name not in figures:
                return
            # From the file, not counted here: a training that goes on has validated before.
            done = sum(f"validation/{name}" in row for row in run.metrics())
            trial.report(figures[name], done)
            # The last one: all is paid for, and what was paid for is kept.
            if done != validations(experiment) and trial.should_prune():
                raise TrialPruned(f"{name} {figures[name]:.4f} at step {step}")

        experiment = experiment_with(self.base, self.overrides, chosen)
        if self.processes > 1:
            result = train_together(
                experiment,
                run,
                self.processes,
                time_budget=self.time_budget,
                watch=watch,
                mirror=self.mirror,
                stop=self.stop,
            )
        else:
            with numbered(f"trial {trial.number}"):
                result = train(
                    experiment,
                    run.path,
                    resume=run.exists,
                    time_budget=self.time_budget,
                    mirror=self.mirror,
                    progress=self.progress,
                    watch=watch,
                )
        return [objective.read(result) for objective in self.objectives.values()]

    def _shown(self, values: Sequence[float] | None) -> str:
        pairs = zip(self.objectives, values or (), strict=values is not None)
        return "".join(f", {name} {value:.5g}" for name, value in pairs)


def _reason(error: Exception) -> str:
    if isinstance(error, FlowbenchError):
        return str(error)
    if is_out_of_memory(error):
        return "out of memory: search a smaller model or data.batch_size"
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _told(chosen: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in chosen.items()
    )
