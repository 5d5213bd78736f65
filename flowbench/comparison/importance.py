"""Which settings matter: functional ANOVA over whatever runs there are, of a study or not."""

import json
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flowbench.comparison.entries import Entry

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["importances"]

FEWEST = 5
"""Runs below which a variance says nothing."""


def importances(entries: Sequence[Entry], keys: Sequence[str]) -> dict[str, float]:
    """Return the share of the variance that each setting explains, summing to 1 (Hutter et al. 2014).

    Only settings that every entry has are looked at. Empty where there are fewer than five entries, or nothing varies.

    Args:
        entries: finished ones.
        keys: settings that differ between them.
    """
    shared = [key for key in keys if all(key in entry.settings for entry in entries)]
    values = [entry.value for entry in entries if entry.value is not None]
    if len(values) < FEWEST or not shared or max(values) == min(values):
        return {}
    import optuna

    spaces = {key: _distribution([entry.settings[key] for entry in entries]) for key in shared}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study()
        for entry in entries:
            params = {key: _plain(entry.settings[key]) for key in shared}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=entry.value))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found: dict[str, float] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return found


def _distribution(values: Sequence[Any]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = float(min(values)), float(max(values))
        return FloatDistribution(low, high, log=low > 0 and high / low >= 8)
    return CategoricalDistribution(sorted({_plain(value) for value in values}, key=str))


def _plain(value: Any) -> Any:
    plain = value is None or isinstance(value, bool | int | float | str)
    return value if plain else json.dumps(value, sort_keys=True, default=str)
