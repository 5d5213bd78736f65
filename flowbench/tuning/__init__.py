"""Hyperparameter studies: search spaces from experiment files, trials that are runs, any number of workers."""

from flowbench.tuning.study import Studied, tune

__all__ = ["Studied", "tune"]
