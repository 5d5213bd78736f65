"""The state of one training, and its way into a checkpoint and back."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowbench.config.extensions import changed_imports, imports_of
from flowbench.config.schema import Experiment
from flowbench.evaluation.weights import WeightAverage
from flowbench.runs.folder import RunFolder
from flowbench.runs.same_data import check_same_data
from flowbench.system.environment import describe_environment
from flowbench.system.processes import from_leader, leads, place
from flowbench.system.progress import warn
from flowbench.tasks.task import Task, Watch
from flowbench.training.opposition import Opposition
from flowbench.training.optimization import make_optimizer
from flowbench.training.saving import CheckpointWriter
from flowbench.training.window import Window

__all__ = ["Session"]


class Session:
    """The state of one training: everything that a checkpoint holds."""

    def __init__(
        self,
        experiment: Experiment[Any, Any],
        run: RunFolder,
        task: Task,
        device: torch.device,
        budget: float | None,
        watch: Watch | None,
    ) -> None:
        self.experiment, self.run, self.task, self.device, self.budget = experiment, run, task, device, budget
        self.watch = watch
        self.checkpoints = CheckpointWriter(run)
        config = experiment.train
        self.total_steps = config.steps if config.steps is not None else (config.epochs or 0) * task.steps_per_epoch
        self.parameters = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.parameters, experiment.optim) if self.parameters else None
        self.opposition = Opposition(task.opponent, device) if task.opponent else None
        self.average = WeightAverage(task.model, config.ema) if config.ema else None
        self.step = 0
        self.resumed = False
        self.seconds = 0.0
        self.processor_seconds = 0.0
        self.compile_seconds = 0.0
        self.step_seconds = 0.0
        self.window = Window()
        self.best: dict[str, Any] = {"value": None, "step": 0, "stale": 0, "model": {}, "ema": {}}
        self.population: dict[str, Tensor] = {}
        self.skipped = torch.zeros((), device=device)
        self.skipped_in_a_row = torch.zeros((), device=device)

    @property
    def epoch(self) -> int:
        """Whole epochs that are done."""
        return self.step // self.task.steps_per_epoch

    @property
    def progress(self) -> float:
        """Part of the training that is done, in steps or in time, whichever is further."""
        done = self.step / self.total_steps if self.total_steps else 1.0
        return min(max(done, self.seconds / self.budget if self.budget else 0.0), 1.0)

    @property
    def done(self) -> bool:
        """Whether no step is left, or validation has not improved for too long."""
        patience = self.experiment.train.patience
        return self.progress >= 1 or (patience is not None and self.best["stale"] >= patience)

    def count(self, finite: Tensor) -> None:
        """Count a step as skipped or not, `finite` 0 or 1, without waiting for the device."""
        if finite.is_cpu and finite:
            self.skipped_in_a_row.zero_()
            return
        bad = 1 - finite
        self.skipped += bad
        self.skipped_in_a_row = (self.skipped_in_a_row + 1) * bad

    def begin(self) -> None:
        """Write what the run is, unless it goes on, and forget how it last failed."""
        self.run.forget_failure()
        if not self.run.exists:
            environment = describe_environment(self.device)
            imports = imports_of(self.experiment.model.name, self.experiment.data.name, self.experiment.kind)
            recorded = {"imports": imports} if imports else {}
            self.run.begin(self.experiment, {**environment, **recorded, "data": self.task.data})

    def save(self) -> None:
        """Begin to write the checkpoint; `checkpoints` tells when it is there."""
        if not leads():
            return
        cuda = self.device.type == "cuda"
        self.checkpoints.write(
            {
                "model": self.task.model.state_dict(),
                "ema": self.average.state_dict() if self.average else {},
                "optimizer": self.optimizer.state_dict() if self.optimizer else {},
                **({"opposition": self.opposition.state_dict()} if self.opposition else {}),
                "schedule": {
                    "seconds": self.seconds,
                    "processor_seconds": self.processor_seconds,
                    "budget": self.budget,
                    "compile_seconds": self.compile_seconds,
                    "step_seconds": self.step_seconds,
                    "window": self.window.state_dict(),
                },
                "step": self.step,
                "epoch": self.epoch,
                "generators": {"cpu": torch.get_rng_state(), **({"cuda": torch.cuda.get_rng_state()} if cuda else {})},
                "best": self.best,
                "skipped": int(self.skipped.item()),
                "population": self.population,
            }
        )

    def restore(self) -> None:
        """Go back to the folder's checkpoint; without one, initialize the model from the data and start."""
        state = from_leader(self._stored)
        self.resumed = state is not None
        if state is None:
            if self.task.prepare():
                self.total_steps = 0
            return
        with self.run.reading_checkpoint():
            self.task.model.load_state_dict(state["model"])
            if self.average:
                self.average.load_state_dict(state["ema"])
            if self.optimizer:
                self.optimizer.load_state_dict(state["optimizer"])
            if self.opposition:
                self.opposition.load_state_dict(state["opposition"])
            self.seconds = state["schedule"]["seconds"]
            # Checkpoints made before did not tell them apart.
            self.compile_seconds = state["schedule"].get("compile_seconds", 0.0)
            self.processor_seconds = state["schedule"].get("processor_seconds", 0.0)
            self.step_seconds = state["schedule"].get("step_seconds", self.seconds)
            if "window" in state["schedule"]:
                self.window = Window.of(state["schedule"]["window"], self.device)
            # A run begun under a time budget stays one: its rates have followed the clock.
            self.budget = self.budget or state["schedule"]["budget"]
            self.step, self.best = state["step"], state["best"]
            self.skipped.fill_(state["skipped"])
            torch.set_rng_state(state["generators"]["cpu"])
            if self.device.type == "cuda" and "cuda" in state["generators"]:
                torch.cuda.set_rng_state(state["generators"]["cuda"])

    def _stored(self) -> dict[str, Any] | None:
        """Return the checkpoint to go on from, with the metrics cut to its step; None: there is none."""
        if not self.run.exists:
            return None
        self._check_environment()
        state, note = self.run.load_checkpoint() or (None, None)
        if note:
            warn(note)
            self.run.set_aside_checkpoint()
        with self.run.reading_checkpoint():
            step = -1 if state is None else int(state["step"])
        self.run.cut_metrics(step)
        return state

    def _check_environment(self) -> None:
        check_same_data(self.run)
        environment = self.run.environment
        if (line := changed_imports(environment.get("imports", []))) is not None:
            warn(f"{self.run.path}: {line}")
        threads = environment.get("threads")
        if self.device.type == "cpu" and threads != torch.get_num_threads():
            warn(
                f"{self.run.path}: begun with {threads} threads, going on with {torch.get_num_threads()}: "
                "the result will differ in the last bits from an uninterrupted run's"
            )
        here = torch.backends.cpu.get_cpu_capability()
        if self.device.type == "cpu" and environment.get("instructions", here) != here:
            warn(
                f"{self.run.path}: begun on a processor with {environment['instructions']}, going on with {here}: "
                "the result will differ in the last bits from an uninterrupted run's"
            )
        if (processes := environment.get("processes", 1)) != place()[1]:
            warn(
                f"{self.run.path}: begun with {processes} processes, going on with {place()[1]}: "
                "the result will differ in the last bits from an uninterrupted run's"
            )

    def finish(self) -> None:
        """Take the best validated weights under `train.keep: best`, add the statistics to report with, and save."""
        if self.best["model"]:
            self.task.model.load_state_dict(self.best["model"])
            if self.average:
                self.average.load_state_dict(self.best["ema"])
        self.population = self.task.population(self.average)
        # A model that is fitted without steps is saved once: going on with it adds nothing.
        if self.step or not self.resumed:
            self.save()
        self.checkpoints.wait()

    def log(self, values: Mapping[str, float | int]) -> None:
        """Append a row of metrics."""
        if not leads():
            return
        self.run.append_metrics({"step": self.step, "epoch": self.epoch, "time": time.time(), **values})
