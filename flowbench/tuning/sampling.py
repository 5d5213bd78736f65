"""Optuna's samplers and pruners as the `study:` section names them; each trial's draws follow from (seed, number)."""

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

from flowbench.config.schema import Experiment, Study
from flowbench.errors import InputError
from flowbench.tuning.grid import GridByNumber, grid_points

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study as OptunaStudy
    from optuna.trial import FrozenTrial, TrialState

__all__ = ["make_pruner", "make_sampler", "validations"]

REDUCTION = 3
"""Hyperband keeps one in so many (Li et al. 2018, section 3: 3 or 4)."""


class SeededByTrial(BaseSampler):
    """A sampler made anew for every trial, seeded from (study seed, trial number).

    Ten workers of one study then do not all begin with the same point, and a study that goes on does not begin again
    with the points that it has.

    Args:
        make: builds the sampler from a seed.
        seed: of the study.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._sampler = make(seed)

    def before_trial(self, study: "OptunaStudy", trial: "FrozenTrial") -> None:
        """Take the trial's own seed."""
        entropy = np.random.SeedSequence((self._seed, trial.number))
        self._sampler = self._make(int(entropy.generate_state(1)[0]))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: "OptunaStudy", trial: "FrozenTrial"
    ) -> dict[str, "BaseDistribution"]:  # fmt: skip
        """See BaseSampler."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: "OptunaStudy", trial: "FrozenTrial", search_space: dict[str, "BaseDistribution"]
    ) -> dict[str, Any]:
        """See BaseSampler."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: "OptunaStudy", trial: "FrozenTrial", param_name: str, param_distribution: "BaseDistribution"
    ) -> Any:
        """See BaseSampler."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: "OptunaStudy", trial: "FrozenTrial", state: "TrialState", values: Sequence[float] | None
    ) -> None:
        """See BaseSampler."""
        self._sampler.after_trial(study, trial, state, values)


def make_sampler(experiment: Experiment[Any, Any]) -> BaseSampler:
    """Build the sampler of the experiment's study.

    Raises:
        InputError: a grid over a key without a finite list of values; a sampler whose package is not installed.
    """
    study: Study = experiment.study
    if study.sampler == "grid":
        return GridByNumber(grid_points(experiment.name, experiment.tune), study.seed)
    if study.sampler == "cmaes" and find_spec("cmaes") is None:
        raise InputError("study.sampler: cmaes needs a package: pip install cmaes")
    conditional = any(space.when for space in experiment.tune.values())

    def make(seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return _SAMPLERS[study.sampler](seed, conditional)

    return SeededByTrial(make, study.seed)


def make_pruner(experiment: Experiment[Any, Any], objectives: Sequence[str]) -> BasePruner:
    """Build the pruner of the experiment's study; several objectives cannot be pruned (Optuna)."""
    if len(objectives) > 1 or experiment.study.pruner == "none":
        return NopPruner()
    if experiment.study.pruner == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    return HyperbandPruner(min_resource=1, max_resource=validations(experiment), reduction_factor=REDUCTION)


def validations(experiment: Experiment[Any, Any]) -> int | str:
    """Return how often a whole training validates, Hyperband's largest resource; auto: Optuna waits for the first."""
    train = experiment.train
    if train.validate_every == "epoch":
        return train.epochs or "auto"
    if not train.steps:
        return "auto"
    # Under `keep: best` the last step is validated whatever its number.
    one_more = train.keep == "best" and train.steps % train.validate_every != 0
    return max(1, train.steps // train.validate_every + one_more)


def _tpe(seed: int, conditional: bool) -> BaseSampler:
    # constant_liar: workers that run at the same time keep away from each other's points.
    return TPESampler(seed=seed, multivariate=True, group=conditional, constant_liar=True, n_startup_trials=8)


_SAMPLERS: dict[str, Callable[[int, bool], BaseSampler]] = {
    "tpe": _tpe,
    "random": lambda seed, _: RandomSampler(seed),
    "cmaes": lambda seed, _: CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "gp": lambda seed, _: GPSampler(seed=seed, warn_independent_sampling=False),
}
