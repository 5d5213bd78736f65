"""A whole study: workers take trials until enough are done; the best becomes an experiment file."""

import os
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from flowbench.config.experiments import load_experiment
from flowbench.config.registry import image_sets
from flowbench.config.schema import Experiment, Space
from flowbench.errors import InputError, WorkFailedError
from flowbench.system.durations import in_words
from flowbench.system.interruption import Interrupted, StopRequest
from flowbench.system.progress import TrainingBar
from flowbench.system.threads import one_thread
from flowbench.tuning.grid import GridByNumber
from flowbench.tuning.joining import join_study, study_folder, study_uid
from flowbench.tuning.objectives import Objective, objectives_of, validated
from flowbench.tuning.space import check_space, in_order
from flowbench.tuning.storage import DEFAULT_STORAGE, explained, open_storage
from flowbench.tuning.tally import tallied
from flowbench.tuning.trial import Trials
from flowbench.tuning.workers import work_side_by_side

if TYPE_CHECKING:
    from flowbench.tracking import Mirror

__all__ = ["HOLDOUT", "Studied", "tune"]

HOLDOUT = 5_000
"""Training images put aside to choose by where an experiment puts none aside; at most a fifth of them."""


@dataclass(frozen=True)
class Studied:
    """A study whose trials are done, and what it was made of."""

    study: optuna.Study
    base: str | Path
    """The experiment's name or file."""
    overrides: tuple[str, ...]
    """In every trial and in the best configuration."""
    folder: Path
    """Where the trials' runs lie, each in a folder of its own."""
    storage: str
    """URL, for messages."""


def tune(
    base: str | Path,
    trials: int,
    *,
    overrides: list[str],
    study: str | None = None,
    storage: str | BaseStorage = DEFAULT_STORAGE,
    time_budget: float | None = None,
    processes: int = 1,
    jobs: int = 1,
    memory: Callable[[Experiment[Any, Any]], int] = lambda _: 0,
    mirror: "Mirror",
    show: Callable[[str], None],
    progress: bool = False,
) -> Studied:
    """Run trials of the experiment's `tune:` space until `trials` of the study are complete or pruned.

    Any number of processes may join the same study; each goes on until that many are done (those running then finish).
    As many failures end it too. A study that exists goes on. Each trial is trained with one thread, unless several
    processes train it together: its figures depend neither on `jobs` nor on the machine's cores.

    Args:
        base: the experiment's name or file.
        trials: how many of the study, all workers together.
        overrides: `KEY=VALUE`, in every trial and in the best configuration.
        study: its name [default: the experiment's, with `/` as `-`].
        storage: a URL, see `open_storage`, or an open one.
        time_budget: seconds of each trial's steps.
        processes: that train each trial together, through torchrun; 1: this one.
        jobs: trials at a time, each in a process of this machine; no more than trials are missing. 1: in this process.
        memory: gives the bytes that training the experiment takes: another job is started only where they are free.
        mirror: brings the runs into MLflow.
        show: told what happens, line by line.
        progress: draw a bar on stderr.

    Raises:
        InputError: a bad space, objective or storage; missing data; a study of the same name with other settings.
        WorkFailedError: `trials` trials failed, or the storage did.
        Interrupted: Ctrl-C or SIGTERM; finished trials are kept, the running one goes on with the next call.
    """
    experiment, changes, objectives = _checked(base, overrides, processes)
    if progress and (why := _never_pruned(experiment, list(objectives))):
        show(f"{why}, every trial runs to its end")
    url = storage if isinstance(storage, str) else "storage"
    with warnings.catch_warnings(), explained(url), StopRequest() as stop:
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        opened = open_storage(storage) if isinstance(storage, str) else storage
        joined = join_study(study or experiment.name.replace("/", "-"), opened, experiment, objectives)
        folder = study_folder(joined)
        job = Trials(
            base, changes, experiment, folder, study_uid(joined), objectives,
            time_budget, mirror, show, stop, processes, progress,
        )  # fmt: skip
        done = tallied(joined).done
        workers = min(jobs, trials - done)
        if progress:
            show(_plan(joined.study_name, experiment, done, trials, max(workers, 1), time_budget))
        if workers > 1:
            if not isinstance(storage, str):
                raise InputError("tune: several jobs need a storage that processes can share: give its URL")
            request = {"base": str(base), "trials": trials, "overrides": overrides, "study": joined.study_name}
            request |= {"storage": storage, "time_budget": time_budget, "processes": processes}
            _work_side_by_side(joined, job, trials, workers, request, memory(experiment))
        if workers <= 1 or stop.signal is None:
            # What the workers left: mostly nothing.
            with one_thread():
                _work(joined, job, trials)
        _refuse_unfinished(joined, trials, stop)
        return Studied(joined, base, tuple(overrides), folder, url)


def _checked(
    base: str | Path, overrides: list[str], processes: int
) -> tuple[Experiment[Any, Any], list[str], dict[str, Objective]]:
    """Return what `_resolve` does and the objectives, having refused what would make every trial fail."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "tune: start it without torchrun: --nproc-per-node has each trial trained by several processes"
        )
    experiment, changes = _resolve(base, overrides)
    objectives = objectives_of(experiment)
    check_space(base, changes, experiment)
    _check_data(experiment)
    _check_processes(experiment, processes)
    return experiment, changes, objectives


def _never_pruned(experiment: Experiment[Any, Any], objectives: Sequence[str]) -> str | None:
    """Return why the pruner that is asked for has nothing to read."""
    if experiment.study.pruner == "none":
        return None
    if len(objectives) > 1:
        return "several objectives: Optuna cannot prune"
    if objectives[0] not in validated(experiment):
        return f"{objectives[0]} is known at a training's end alone: nothing is pruned by it"
    return None


def _refuse_unfinished(study: optuna.Study, trials: int, stop: StopRequest) -> None:
    """Raise what `tune` says it does where a study ends before its trials are done."""
    tally = tallied(study)
    if stop.signal is not None:
        raise Interrupted(
            f"study {study.study_name}: stopped with {tally.done} of {trials} trials done: run the same command again "
            "to go on",
            stop.signal,
        )
    if tally.failed >= trials and tally.done < trials:
        raise WorkFailedError(f"study {study.study_name}: {tally.failed} trials failed, the last: {tally.last_reason}")


def _plan(
    name: str, experiment: Experiment[Any, Any], done: int, trials: int, workers: int, time_budget: float | None
) -> str:
    """Return what a study is about to do, in one line."""
    config, left = experiment.train, max(trials - done, 0)
    length = f"{config.epochs} epochs" if config.steps is None else f"{config.steps} steps"
    length = length if time_budget is None else in_words(time_budget)
    went = f"goes on, {done} of {trials} trials are done, " if done else ""
    missing = f"1 trial to make of {length}" if left == 1 else f"{left} trials to make of {length} each"
    side_by_side = f", {workers} at a time" if workers > 1 else ""
    searched = ", ".join(experiment.tune)
    return f"study {name}: {went}{missing}{side_by_side}; searched: {searched}"


def _draw(bar: TrainingBar, done: int, trials: int, parts: Collection[float]) -> None:
    """Draw how much of a study is done, given the trained parts (0 to 1) of the trials at work."""
    bar.note(f"{done} of {trials} trials, {len(parts)} at work")
    bar.advance(min((done + sum(parts)) / trials, 1.0))


def _work_side_by_side(
    study: optuna.Study, job: Trials, trials: int, workers: int, request: dict[str, Any], memory: int
) -> None:
    """Have workers take trials, with one bar for all of them.

    Args:
        study: theirs.
        job: what each trial is.
        trials: how many of the study.
        workers: how many.
        request: what each is asked.
        memory: bytes that one takes.
    """
    with TrainingBar(study.study_name, "trials", shown=job.progress) as bar:
        work_side_by_side(
            workers,
            request,
            memory=memory,
            mirror=job.mirror,
            stop=job.stop,
            show=job.show,
            advance=lambda parts: _draw(bar, tallied(study).done, trials, parts),
        )


def _work(study: optuna.Study, job: Trials, trials: int) -> None:
    """Take trials until enough of the study are done, by whomever."""

    def enough() -> bool:
        tally = tallied(study)
        exhausted = isinstance(study.sampler, GridByNumber) and study.sampler.exhausted(study)
        return tally.done >= trials or tally.failed >= trials or exhausted or job.stop.signal is not None

    def after(_: optuna.Study, __: optuna.trial.FrozenTrial) -> None:
        if enough():
            study.stop()

    # The trials of workers that were killed wait again before anything is counted.
    optuna.storages.fail_stale_trials(study)
    if not enough() or _waiting(study):
        try:
            study.optimize(job, callbacks=[after], catch=(WorkFailedError,))
        except Interrupted as stopped:
            job.stop.signal = job.stop.signal or stopped.signal


def _waiting(study: optuna.Study) -> bool:
    return bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def _resolve(base: str | Path, overrides: list[str]) -> tuple[Experiment[Any, Any], list[str]]:
    """Return the experiment that every trial varies, and the overrides that make it from the base."""
    experiment = load_experiment(base, overrides)
    changes = list(overrides)
    fixed = {override.partition("=")[0] for override in overrides}
    budget = experiment.study
    # What the caller says of a trial's length comes before what the file does.
    if budget.steps is not None and not fixed & {"train.steps", "train.epochs"}:
        changes.append(f"train.steps={budget.steps}")
        if budget.validations is not None and "train.validate_every" not in fixed:
            changes.append(f"train.validate_every={max(1, budget.steps // budget.validations)}")
    # Data that have a part of their own to choose by put no training images aside.
    if (
        experiment.kind == "density"
        and not experiment.data.holdout
        and image_sets[experiment.data.name].choosing is None
    ):
        from flowbench.data import open_images

        changes.append(f"data.holdout={min(HOLDOUT, len(open_images(experiment.data, 'train')) // 5)}")
    resolved = load_experiment(base, changes)
    return resolved.model_copy(update={"tune": _left_to_search(resolved, fixed)}), changes


def _left_to_search(experiment: Experiment[Any, Any], fixed: set[str]) -> dict[str, Space]:
    """Return the searched keys without those that the caller has fixed, and without what can then never be searched."""

    def value_of(key: str) -> Any:
        return reduce(getattr, key.split("."), experiment)

    left: dict[str, Space] = {}
    for key in in_order(experiment.name, experiment.tune):
        one = experiment.tune[key]
        conditions = one.when or {}
        holds = all(other in left or (other in fixed and value_of(other) == v) for other, v in conditions.items())
        if key not in fixed and holds:
            open_ones = {other: value for other, value in conditions.items() if other in left}
            left[key] = one.model_copy(update={"when": open_ones or None})
    return {key: left[key] for key in experiment.tune if key in left}


def _check_data(experiment: Experiment[Any, Any]) -> None:
    """Open the data before there is a study: what is missing is missing for every trial."""
    import torch

    from flowbench.tasks.task import make_task

    make_task(experiment, torch.device("cpu"))


def _check_processes(experiment: Experiment[Any, Any], processes: int) -> None:
    """Refuse a number of processes with which every trial would fail."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus and processes > gpus:
        raise InputError(f"--nproc-per-node {processes}: there are {gpus} GPUs here")
    batch_size = experiment.data.batch_size
    if batch_size % processes and "data.batch_size" not in experiment.tune:
        raise InputError(f"--nproc-per-node {processes}: data.batch_size={batch_size} does not divide among them")
