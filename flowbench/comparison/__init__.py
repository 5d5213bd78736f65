"""Many runs, or the trials of a study, side by side: table, importance, plots, a recommendation."""

from flowbench.comparison.build import compare_many, compare_study
from flowbench.comparison.study import Outcome, outcome_of

__all__ = ["Outcome", "compare_many", "compare_study", "outcome_of"]
