"""One training from an experiment to a finished run folder: set up, step, log, validate, save, evaluate.

The loop knows nothing of what is modelled: a `Task` gives losses and figures.
"""

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowbench.config.experiments import config_sha256, load_experiment, shipped_folder
from flowbench.config.extensions import changed_imports
from flowbench.config.registry import image_sets
from flowbench.config.result_notes import UNDRAWN
from flowbench.config.schema import COMPILED_NUMERICS, Experiment
from flowbench.densities.noise import step_seed
from flowbench.errors import FlowbenchError, InputError, WorkFailedError, fitting_in_memory, in_words
from flowbench.figures.drawing import draw_at_end
from flowbench.runs.folder import RunFolder
from flowbench.runs.same_data import check_same_data
from flowbench.system.device import bfloat16_units
from flowbench.system.interruption import Interrupted, StopRequest
from flowbench.system.processes import agree, distribute, from_leader, join, leads, mean_of_all, place, surviving
from flowbench.system.progress import TrainingBar, warn
from flowbench.tables.results import stale_reasons
from flowbench.tasks.hand_derived import descend
from flowbench.tasks.task import Task, Watch, make_task
from flowbench.tracking import Mirror, read_mlflow_run_id
from flowbench.training.optimization import learning_rate, take_step
from flowbench.training.session import Session
from flowbench.training.warm_up import compile_steps
from flowbench.training.window import Window

__all__ = ["train"]


def train(
    experiment: Experiment[Any, Any],
    run_dir: Path,
    *,
    resume: bool = False,
    time_budget: float | None = None,
    mirror: Mirror | None = None,
    progress: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train and evaluate an experiment in a run folder and return the content of its `result.json`.

    Args:
        experiment: what to train.
        run_dir: the run folder; finished with the same config: its result is returned at once.
        resume: go on from the folder's checkpoint.
        time_budget: seconds for all steps; schedules then run over the time used.
        mirror: where to mirror the run; it never delays or breaks a training.
        progress: draw a bar on stderr.
        watch: follows a training that is one choice among others: it is told of every validation, and may raise to end
            the training. The result then holds figures on the data that choose; the report split stays closed.
    Raises:
        InputError: missing data, a folder with another config or of other data, an unfinished one without `resume`.
        WorkFailedError: the training diverged, or another of its processes was lost; the last good checkpoint is kept.
        Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    run = RunFolder(run_dir)
    with ExitStack() as held, fitting_in_memory(experiment.data.batch_size), surviving(run.path):
        device = join()
        if finished := from_leader(lambda: _finished(run, experiment, resume)):
            return from_leader(lambda: _completed(run, finished, mirror))
        # Before the folder is touched: missing data must leave nothing behind.
        task = make_task(experiment, device)
        from_leader(lambda: held.enter_context(run.lock()))
        # Another process may have been here while the data were opened.
        if from_leader(lambda: _finished(run, experiment, resume)):
            return from_leader(lambda: _drawn(run))
        session = Session(experiment, run, task, device, time_budget, watch)
        held.enter_context(session.checkpoints)
        session.restore()
        from_leader(session.begin)
        if experiment.train.precision == "bf16" and device.type == "cpu" and bfloat16_units() is None and leads():
            warn(
                "train.precision: bf16 on a processor without units for it (AVX512-BF16, AMX) takes several times as "
                "long as float32, without AVX-512 ten times: stop, and add train.precision=32 to train in float32"
            )
        if watch is None:
            # What ends a watched training is its watcher's to tell.
            held.enter_context(run.noting_failure())
        if mirror is not None and leads():
            mirror.follow(run.path)
        with StopRequest() as stop, TrainingBar(experiment.name, task.unit, shown=progress and leads()) as bar:
            _fit(session, stop, bar)
            session.finish()
            stop.at_once(f"{run.path}: stopped before the evaluation was done: go on with --resume")
            if watch is not None:
                chosen = task.choose(run, session.average)
                return from_leader(lambda: _result(session, chosen, []))
            metrics, notes = task.evaluate(run, session.average)
            from_leader(lambda: _result(session, metrics, [*notes, UNDRAWN]))
            stop.at_once(
                f"{run.path}: finished, but stopped before its pictures were drawn: flowbench figures {run.path}"
            )
            return from_leader(lambda: _drawn(run))


def _finished(run: RunFolder, experiment: Experiment[Any, Any], resume: bool) -> dict[str, Any] | None:
    """Return the result of a run that came to its end; refuse another config, and an unfinished one without resume."""
    if not run.exists:
        return None
    run.check_config(experiment)
    if run.finished:
        check_same_data(run)
        if reasons := stale_reasons(run.result, experiment):
            warn(f"{run.path}: stale: {'; '.join(reasons)}: to train it as it is today, give another --run-dir")
        if (line := changed_imports(run.environment.get("imports", []))) is not None:
            warn(f"{run.path}: {line}")
        return run.result
    if not resume:
        raise InputError(f"{run.path}: holds an unfinished run: add --resume, or give another --run-dir")
    return None


def _fit(session: Session, stop: StopRequest, bar: TrainingBar) -> None:
    """The loop: every step is a function of the state, so that a resumed training is the uninterrupted one."""
    config, task = session.experiment.train, session.task
    if session.done or session.optimizer is None:
        return
    objective = distribute(task.objective, session.device)
    validate_every = task.steps_per_epoch if config.validate_every == "epoch" else config.validate_every
    task.model.train()
    if config.compile:
        bar.note("compiling")
        compile_steps(session, lambda: _step(session, objective))
    clock, worked = time.perf_counter(), time.process_time() - session.processor_seconds
    while not session.done:
        started = time.perf_counter()
        session.checkpoints.check()
        session.window.add(*_step(session, objective))
        session.step += 1
        bar.advance(session.progress)
        if session.average:
            session.average.update(session.step)
        session.window.seconds += time.perf_counter() - started
        last = session.step == session.total_steps
        if session.step % config.log_every == 0 or last:
            _log(session, bar)
        if session.step % validate_every == 0 or (last and config.keep == "best"):
            _validate(session)
        now = time.perf_counter()
        # The processes get a signal, and read the clock, at moments of their own.
        session.seconds, stopped = agree(session.seconds + now - clock, stop.signal or 0)
        clock, session.processor_seconds = now, time.process_time() - worked
        if not last:
            _end(session, bar, validate_every)
        if session.step % config.checkpoint_every == 0 or session.done or stopped:
            session.save()
        if stopped and not session.done:
            session.checkpoints.wait()
            raise Interrupted(
                f"{session.run.path}: stopped at step {session.step} and saved: go on with --resume", int(stopped)
            )


def _end(session: Session, bar: TrainingBar, validate_every: int) -> None:
    """Log and validate what the clock or patience has ended between two rows or two validations."""
    if not session.done:
        return
    if session.window.steps:
        _log(session, bar)
    if session.experiment.train.keep == "best" and session.step % validate_every:
        _validate(session)


def _log(session: Session, bar: TrainingBar) -> None:
    """Append the row of the steps since the last one."""
    assert session.optimizer is not None
    window, session.window = session.window, Window()
    session.step_seconds += window.seconds
    row = window.means() | _speed(window, session.task)
    session.log(row | {"lr": session.optimizer.param_groups[0]["lr"], **_skips(session)})
    bar.show(session.progress, row)


def _step(session: Session, objective: nn.Module) -> tuple[dict[str, Tensor], Tensor]:
    """Take one optimizer step without waiting for the device; a non-finite loss or gradient changes nothing."""
    config, optimizer = session.experiment.optim, session.optimizer
    assert optimizer is not None
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, session.progress, session.epoch, session.step)
    if place()[1] > 1:
        # Dropout of a process of its own, and the same after a resume.
        torch.manual_seed(step_seed("process", session.experiment.seed, session.step, place()[0]))
    batch = session.task.batch(session.step)
    opposed = session.opposition.train(batch) if session.opposition else {}
    loss, terms = descend(objective, batch)
    # Detached: what is kept of a step must not keep its graph beside the next one's.
    values = mean_of_all({key: value.detach() for key, value in {"loss": loss, **terms}.items()})
    norm, finite = take_step(optimizer, session.parameters, values["loss"], config.clip_norm)
    session.count(finite)
    return {**values, **opposed, "grad_norm": norm}, finite


def _skips(session: Session) -> dict[str, int]:
    in_a_row = int(session.skipped_in_a_row.item())
    if in_a_row >= session.experiment.train.max_skipped:
        raise WorkFailedError(
            f"{session.run.path}: diverged: loss or gradient not finite in the last {in_a_row} steps (up to step "
            f"{session.step}); the last good checkpoint is kept: lower optim.lr or set optim.warmup"
        )
    return {"skipped": int(session.skipped.item())}


def _validate(session: Session) -> None:
    # A trial may be pruned after any of them: what it was chosen by is kept.
    figures = session.task.validate(session.average, None if session.watch is None else session.run)
    session.task.model.train()
    if figures is None:
        return
    session.log({f"validation/{key}": value for key, value in figures.items()})
    if session.watch is not None:
        session.watch(session.step, figures)
    value, best = figures[session.task.monitor], session.best
    if not math.isfinite(value) or (best["value"] is not None and value >= best["value"]):
        best["stale"] += 1
        return
    session.best = {"value": value, "step": session.step, "stale": 0, "model": {}, "ema": {}}
    if session.experiment.train.keep == "best":
        averages = session.average.state_dict() if session.average else {}
        best = session.best
        best["model"], best["ema"] = _copy(session.task.model.state_dict()), _copy(averages)


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in state.items()}


def _speed(window: Window, task: Task) -> dict[str, float]:
    return {f"{task.unit}_per_second": window.steps * task.batch_size / window.seconds} if window.seconds else {}


def _result(session: Session, metrics: dict[str, dict[str, Any]], notes: list[str]) -> dict[str, Any]:
    """Write and return the result: from here on the run is finished."""
    experiment, task = session.experiment, session.task
    # Of the steps alone: a training that validates more often is not slower.
    speed = session.step * task.batch_size / session.step_seconds if session.step_seconds else None
    result = {
        "schema": 1,
        "experiment": experiment.name,
        "kind": experiment.kind,
        "model": experiment.model.name,
        "dataset": task.data["name"],
        "data_fingerprint": task.data["fingerprint"],
        "data_status": task.data["status"],
        "seed": experiment.seed,
        "budget": _budget(session),
        "parameters": sum(parameter.numel() for parameter in session.parameters),
        "steps": session.step,
        "epochs": session.step / task.steps_per_epoch,
        "train_seconds": session.seconds,
        "time_budget": session.budget,
        "device": session.device.type,
        "precision": experiment.train.precision,
        "skipped_steps": int(session.skipped.item()),
        "metrics": metrics,
        "notes": notes,
        "throughput": {
            f"train_{task.unit}_per_second": speed,
            "train_processor_seconds": session.processor_seconds,
            **({"compile_seconds": session.compile_seconds} if experiment.train.compile else {}),
        },
        "mlflow_run_id": read_mlflow_run_id(session.run.path),
        "config_sha256": config_sha256(experiment),
        "numerics": {
            "model": experiment.model.numerics,
            "data": task.data["numerics"],
            **({"compiled": COMPILED_NUMERICS} if experiment.train.compile else {}),
        },
    }
    session.run.write_result(result)
    return result


def _drawn(run: RunFolder) -> dict[str, Any]:
    """Draw the pictures that a run with a result lacks; return the result with what there is to say of them."""
    if run.undrawn:
        try:
            failed = draw_at_end(run)
        except Exception as error:  # whatever it is, the figures stand
            failed = [f"figures: {in_words(error)}"]
        run.note_drawn(failed)
    return run.result


def _completed(run: RunFolder, result: dict[str, Any], mirror: Mirror | None) -> dict[str, Any]:
    """Draw what a finished run lacks that was stopped before its pictures were drawn; return its result."""
    if not run.undrawn:
        return result
    with run.lock():
        result = _drawn(run)
    if mirror is not None:
        mirror.follow(run.path)
    return result


def _budget(session: Session) -> str:
    """`paper` or `quick` only for a shipped preset, unchanged but for its seed, and run to its end on its images."""
    experiment = session.experiment
    if experiment.preset is None or session.budget is not None:
        return "custom"
    if experiment.kind == "density" and image_sets[experiment.data.name].prepared_otherwise(session.task.data):
        return "custom"
    try:
        shipped = load_experiment(shipped_folder() / f"{experiment.name}.yaml")
    except FlowbenchError:
        return "custom"
    same = config_sha256(shipped.model_copy(update={"seed": experiment.seed})) == config_sha256(experiment)
    return experiment.preset if same else "custom"
