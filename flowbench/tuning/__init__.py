"""Hyperparameter studies: search spaces from experiment files, trials that are runs, any number of workers."""

from flowbench.tuning.outcome import Outcome
from flowbench.tuning.study import tune

__all__ = ["Outcome", "tune"]
