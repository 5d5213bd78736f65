"""How many trials of a study ended how."""

from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from flowbench.tuning.trial import SURPLUS

__all__ = ["Tally", "tallied"]


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


def tallied(study: optuna.Study) -> Tally:
    """Count the trials; a killed worker's does not count as failed as long as its point is tried again."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if not trial.user_attrs.get(SURPLUS)]
    again = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
    states = [trial.state for trial in trials]
    failed = [trial for trial in trials if trial.state == TrialState.FAIL and trial.number not in again]
    reason = failed[-1].user_attrs.get("reason", "its worker was killed") if failed else ""
    return Tally(states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED), len(failed), str(reason))
