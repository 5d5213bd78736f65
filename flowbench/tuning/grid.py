"""A grid of points that many workers share without running one twice."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from flowbench.config.schema import Space
from flowbench.errors import InputError
from flowbench.tuning.space import choice, in_order
from flowbench.tuning.storage import retried

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["GridByNumber", "GridExhaustedError", "grid_points"]

MAX_POINTS = 10_000


class GridExhaustedError(Exception):
    """Every point of the grid has its trial: the one that asked was made at the same time as the last."""


class GridByNumber(BaseSampler):
    """The k-th trial of a study, tries again left out, gets the k-th point of the shuffled grid.

    Trial numbers are given out one by one by every storage, so that two workers never get one point. Optuna's own
    GridSampler draws from the points that nobody has begun: two workers that ask together may draw the same one.

    Args:
        points: see `grid_points`.
        seed: of the order.
    """

    def __init__(self, points: list[dict[str, Any]], seed: int) -> None:
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(points))
        self._points = [points[place] for place in order]

    def exhausted(self, study: "Study") -> bool:
        """Say whether every point has its trial, and none waits to be tried again."""
        trials = _all_trials(study)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        return not waiting and sum(not _is_retry(trial) for trial in trials) >= len(self._points)

    def infer_relative_search_space(
        self, study: "Study", trial: "FrozenTrial"
    ) -> "dict[str, BaseDistribution]":  # fmt: skip
        """Return nothing: points are given key by key."""
        return {}

    def sample_relative(
        self, study: "Study", trial: "FrozenTrial", search_space: "dict[str, BaseDistribution]"
    ) -> dict[str, Any]:
        """Return nothing: points are given key by key."""
        return {}

    def sample_independent(
        self, study: "Study", trial: "FrozenTrial", param_name: str, param_distribution: "BaseDistribution"
    ) -> Any:
        """Return the value that the trial's point has for a key; GridExhaustedError where no point is left for it."""
        before = [other for other in _all_trials(study) if other.number < trial.number]
        place = sum(not _is_retry(other) for other in before)
        if place >= len(self._points):
            raise GridExhaustedError
        return self._points[place][param_name]


def grid_points(name: str, space: Mapping[str, Space]) -> list[dict[str, Any]]:
    """Return every combination of values, as Optuna keeps them; a conditional key only where its condition holds.

    Args:
        name: the experiment's, for messages.
        space: its `tune:` section.

    Raises:
        InputError: a key without a finite list of values, or too many points.
    """
    points: list[dict[str, Any]] = [{}]
    for key in in_order(name, space):
        one = space[key]
        values = _values(name, key, one)
        conditions = {other: choice(value) for other, value in (one.when or {}).items()}
        points = [
            point | addition
            for point in points
            for addition in (
                [{key: value} for value in values]
                if all(other in point and point[other] == value for other, value in conditions.items())
                else [{}]
            )
        ]
        if len(points) > MAX_POINTS:
            raise InputError(
                f"{name}: tune: a grid of more than {MAX_POINTS:,} points: fewer values, or another study.sampler"
            )
    return points


def _all_trials(study: "Study") -> "list[FrozenTrial]":
    # Hyperband shows samplers a study that holds the trials of one bracket only (Optuna's issue 2327).
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def _is_retry(trial: "FrozenTrial") -> bool:
    return retried(trial) is not None


def _values(name: str, key: str, space: Space) -> list[Any]:
    if space.categorical is not None:
        return [choice(value) for value in space.categorical]
    if space.int_ is not None:
        return list(range(space.int_[0], space.int_[1] + 1, int(space.step or 1)))
    assert space.float_ is not None
    if space.step is None:
        raise InputError(f"{name}: tune.{key}: a grid needs a step: {{float: [low, high], step: s}}")
    low, high = space.float_
    # Products of the step, not sums of it, so that rounding does not pile up.
    return [low + k * space.step for k in range(int((high - low) / space.step + 1e-9) + 1)]
