"""What a study has found: how many trials ended how, the best ones, and the best one's experiment file."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from flowbench import atomic
from flowbench.comparison import compare_study
from flowbench.config import dump_experiment, load_experiment
from flowbench.tuning.space import experiment_with
from flowbench.tuning.trial import SURPLUS

__all__ = ["Outcome", "Tally", "chosen_in", "outcome_of", "tallied"]


@dataclass(frozen=True)
class Tally:
    """How many trials of a study ended how."""

    complete: int
    pruned: int
    failed: int
    last_reason: str
    """Why the last failed one failed."""

    @property
    def done(self) -> int:
        """What counts towards the number asked for."""
        return self.complete + self.pruned


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


def tallied(study: optuna.Study) -> Tally:
    """Count the trials; a killed worker's does not count as failed as long as its point is tried again."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if not trial.user_attrs.get(SURPLUS)]
    again = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
    states = [trial.state for trial in trials]
    failed = [trial for trial in trials if trial.state == TrialState.FAIL and trial.number not in again]
    reason = failed[-1].user_attrs.get("reason", "its worker was killed") if failed else ""
    return Tally(states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED), len(failed), str(reason))


def outcome_of(study: optuna.Study, base: str | Path, overrides: Sequence[str], folder: Path) -> Outcome:
    """Return what the study has found, and write the best configuration as an experiment file."""
    tally, objectives = tallied(study), tuple(study.metric_names or ())
    counts = (tally.complete, tally.pruned, tally.failed)
    if not tally.complete:
        return Outcome(study.study_name, folder, *counts, objectives, [], None, None, None, [])
    front = sorted(study.best_trials, key=lambda trial: (trial.values, trial.number))
    best = [{"number": one.number, "values": one.values, "chosen": chosen_in(one, base)} for one in front]
    path = folder / "best.yaml"
    tuned = experiment_with(base, overrides, best[0]["chosen"])
    named = tuned.model_copy(update={"name": f"{tuned.name}-tuned", "preset": None})
    atomic.write_text(path, dump_experiment(named))
    command = shlex.join(["flowbench", "train", str(path)])
    page, words = compare_study(study, folder)
    return Outcome(study.study_name, folder, *counts, objectives, best, path, command, page, words)


def chosen_in(trial: FrozenTrial, base: str | Path) -> dict[str, Any]:
    """Return the values that a trial chose, lists among them as lists."""
    space = load_experiment(base).tune
    chosen = dict(trial.params)
    for key, value in trial.params.items():
        choices = space[key].categorical if key in space else None
        if choices is not None and value not in choices and isinstance(value, str):
            chosen[key] = json.loads(value)
    return chosen
