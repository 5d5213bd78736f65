"""Many runs, or the trials of a study, side by side: table, importance, plots, a recommendation."""

from flowbench.comparison.build import compare_many, compare_study

__all__ = ["compare_many", "compare_study"]
