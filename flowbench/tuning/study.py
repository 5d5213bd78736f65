"""A whole study: workers take trials until enough are done; the best becomes an experiment file."""

import shlex
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbench import atomic
from flowbench.config import Experiment, dump_experiment, load_experiment
from flowbench.errors import FlowbenchError, InputError, WorkFailedError
from flowbench.tuning.objectives import objectives_of
from flowbench.tuning.space import check_space, experiment_with
from flowbench.tuning.storage import DEFAULT_STORAGE, open_storage

if TYPE_CHECKING:
    import optuna

    from flowbench.tracking import Mirror

__all__ = ["HOLDOUT", "Outcome", "study_folder", "tune"]

HOLDOUT = 5_000
"""Training images put aside to choose by where an experiment puts none aside; at most a fifth of them."""
STUDIES = Path("runs") / "studies"


@dataclass(frozen=True)
class Outcome:
    """What a study has found so far."""

    study: str
    folder: Path
    complete: int
    pruned: int
    failed: int
    objectives: tuple[str, ...]
    best: list[dict[str, Any]]
    """Number, values and chosen keys of the best trial; with several objectives those of the Pareto front."""
    experiment_file: Path | None
    """The best configuration as an experiment file; None: no trial is complete."""
    command: str | None
    """Trains it in full."""


def tune(
    base: str | Path,
    trials: int,
    *,
    overrides: list[str],
    study: str | None = None,
    storage: str = DEFAULT_STORAGE,
    time_budget: float | None = None,
    mirror: "Mirror",
    show: Callable[[str], None],
) -> Outcome:
    """Run trials of the experiment's `tune:` space until `trials` of the study are complete or pruned.

    Any number of processes may join the same study; each goes on until that many are done (those running then finish).
    As many failures end it too. A study that exists goes on.

    Args:
        base: the experiment's name or file.
        trials: how many of the study, all workers together.
        overrides: `KEY=VALUE`, in every trial.
        study: its name [default: the experiment's, with `/` as `-`].
        storage: see `open_storage`.
        time_budget: seconds of each trial's steps.
        mirror: brings the runs into MLflow.
        show: told what happens, line by line.
    Raises:
        InputError: a bad space, objective or storage; a study of the same name with other objectives.
        WorkFailedError: `trials` trials failed.
        Interrupted: Ctrl-C or SIGTERM; finished trials are kept, the running one is tried again by the next call.
    """
    import optuna

    from flowbench.tuning.sampling import make_pruner, make_sampler
    from flowbench.tuning.trial import Trials

    experiment = load_experiment(base, overrides)
    fixed = {override.partition("=")[0] for override in overrides}
    # A key that the caller sets is not searched.
    experiment = experiment.model_copy(
        update={"tune": {key: space for key, space in experiment.tune.items() if key not in fixed}}
    )
    changes = [*overrides, *_holdout(experiment)]
    objectives = objectives_of(experiment)
    check_space(base, changes, experiment)
    name = study or experiment.name.replace("/", "-")
    if len(objectives) > 1 and experiment.study.pruner != "none":
        show("several objectives: Optuna cannot prune, every trial runs to its end")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        opened = optuna.create_study(
            study_name=name,
            storage=open_storage(storage),
            sampler=make_sampler(experiment),
            pruner=make_pruner(experiment, list(objectives)),
            directions=[one.direction for one in objectives.values()],
            load_if_exists=True,
        )
        _claim(opened, experiment, list(objectives))
        folder = study_folder(opened)
        job = Trials(base, changes, experiment, folder, objectives, time_budget, mirror, show)
        if not _enough(opened, trials):
            opened.optimize(job, callbacks=[_Stop(trials)], catch=(WorkFailedError,))
    return _outcome(opened, base, overrides, folder, list(objectives), trials)


def study_folder(study: "optuna.Study") -> Path:
    """Return where a study's runs lie: by its name and by when it was begun, since a deleted study's runs stay."""
    return STUDIES / f"{study.study_name.replace('/', '-')}-{study.user_attrs['flowbench_uid'][:8]}"


def _holdout(experiment: Experiment[Any, Any]) -> list[str]:
    """Return the override that puts training images aside where the experiment puts none aside."""
    if experiment.kind != "density" or experiment.data.holdout:
        return []
    from flowbench.data import open_images

    return [f"data.holdout={min(HOLDOUT, len(open_images(experiment.data, 'train')) // 5)}"]


def _claim(study: "optuna.Study", experiment: Experiment[Any, Any], objectives: list[str]) -> None:
    """Mark a new study as the experiment's; refuse one of another experiment or with other objectives."""
    import uuid

    attributes = study.user_attrs
    if "flowbench_uid" not in attributes:
        study.set_user_attr("experiment", experiment.name)
        study.set_metric_names(objectives)
        # Workers that begin together must agree: the last writer's uid stands, and all read it back.
        study.set_user_attr("flowbench_uid", uuid.uuid5(uuid.NAMESPACE_OID, f"{study.study_name}{_begun(study)}").hex)
    elif attributes.get("experiment") != experiment.name or study.metric_names != objectives:
        raise InputError(
            f"study {study.study_name}: is of {attributes.get('experiment')} with objectives "
            f"{', '.join(study.metric_names or [])}: give another --study"
        )


def _begun(study: "optuna.Study") -> int:
    # Optuna numbers the studies of a storage: the same for every worker, another one for a study made anew.
    return int(study._study_id)


def _counts(study: "optuna.Study") -> tuple[int, int, int]:
    from optuna.trial import TrialState

    states = [trial.state for trial in study.get_trials(deepcopy=False) if not trial.user_attrs.get("interrupted")]
    return states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED), states.count(TrialState.FAIL)


def _enough(study: "optuna.Study", trials: int) -> bool:
    complete, pruned, failed = _counts(study)
    return complete + pruned >= trials or failed >= trials


class _Stop:
    """Optuna's callback after each trial: stop when enough are done, by this worker or by others."""

    def __init__(self, trials: int) -> None:
        self._trials = trials

    def __call__(self, study: "optuna.Study", _: "optuna.trial.FrozenTrial") -> None:
        if _enough(study, self._trials):
            study.stop()


def _outcome(
    study: "optuna.Study", base: str | Path, overrides: list[str], folder: Path, objectives: list[str], trials: int
) -> Outcome:
    complete, pruned, failed = _counts(study)
    if not complete:
        reasons = [trial.user_attrs.get("reason", "killed") for trial in study.get_trials(deepcopy=False)]
        if failed >= trials:
            raise WorkFailedError(f"study {study.study_name}: {failed} trials failed, the first: {reasons[0]}")
        return Outcome(study.study_name, folder, complete, pruned, failed, tuple(objectives), [], None, None)
    front = sorted(study.best_trials, key=lambda trial: tuple(trial.values))
    best = [{"number": one.number, "values": one.values, "chosen": _chosen(one, folder)} for one in front]
    path = _write_best(base, overrides, best[0]["chosen"], folder)
    command = shlex.join(["flowbench", "train", str(path)])
    return Outcome(study.study_name, folder, complete, pruned, failed, tuple(objectives), best, path, command)


def _chosen(trial: "optuna.trial.FrozenTrial", folder: Path) -> dict[str, Any]:
    import json

    try:
        content = json.loads((folder / trial.user_attrs["run"] / "trial.json").read_text(encoding="utf-8"))
        chosen: dict[str, Any] = content["chosen"]
    except (OSError, ValueError, KeyError):
        return dict(trial.params)  # another machine's folder
    return chosen


def _write_best(base: str | Path, overrides: list[str], chosen: dict[str, Any], folder: Path) -> Path:
    """Write the best configuration as an experiment file, with the experiment's own holdout."""
    best = experiment_with(base, overrides, chosen)
    path = folder / "best.yaml"
    named = best.model_copy(update={"name": f"{best.name}-tuned", "preset": None})
    try:
        atomic.write_text(path, dump_experiment(named))
    except OSError as error:
        raise FlowbenchError(f"{path}: cannot be written: {error.strerror}") from error
    return path
