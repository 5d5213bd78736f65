"""What a study has found: how many trials ended how, the best ones, and the best one's experiment file."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from flowbench.comparison.build import compare_study
from flowbench.comparison.entries import by_objectives
from flowbench.config.experiments import dump_experiment, load_experiment
from flowbench.system import atomic
from flowbench.tuning.space import experiment_with
from flowbench.tuning.storage import explained
from flowbench.tuning.study import Studied
from flowbench.tuning.tally import tallied

__all__ = ["Outcome", "outcome_of"]


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
    page: Path | None
    """The trials side by side: `compare.html`."""
    recommendation: list[str]
    """Which is best, what is tied with it, what to take: in plain words."""


def outcome_of(studied: Studied) -> Outcome:
    """Return what a study has found; write its page, and the best configuration as an experiment file.

    Raises:
        WorkFailedError: the storage failed.
    """
    with explained(studied.storage):
        return _outcome(studied.study, studied.base, studied.overrides, studied.folder)


def _outcome(study: optuna.Study, base: str | Path, overrides: Sequence[str], folder: Path) -> Outcome:
    tally, objectives = tallied(study), tuple(study.metric_names or ())
    counts = (tally.complete, tally.pruned, tally.failed)
    if not tally.complete:
        return Outcome(study.study_name, folder, *counts, objectives, [], None, None, None, [])
    front = sorted(study.best_trials, key=lambda trial: by_objectives(trial, study))
    best = [{"number": one.number, "values": one.values, "chosen": _chosen_in(one, base)} for one in front]
    path = folder / "best.yaml"
    tuned = experiment_with(base, overrides, best[0]["chosen"])
    named = tuned.model_copy(update={"name": f"{tuned.name}-tuned", "preset": None})
    atomic.write_text(path, dump_experiment(named))
    command = shlex.join(["flowbench", "train", str(path)])
    page, words = compare_study(study, folder)
    return Outcome(study.study_name, folder, *counts, objectives, best, path, command, page, words)


def _chosen_in(trial: FrozenTrial, base: str | Path) -> dict[str, Any]:
    """Return the values that a trial chose, lists among them as lists."""
    space = load_experiment(base).tune
    chosen = dict(trial.params)
    for key, value in trial.params.items():
        choices = space[key].categorical if key in space else None
        if choices is not None and value not in choices and isinstance(value, str):
            chosen[key] = json.loads(value)
    return chosen
