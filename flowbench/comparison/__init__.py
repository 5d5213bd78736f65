"""Many runs, or the trials of a study, side by side: table, importance, plots; `study`: what a study has found."""

from flowbench.comparison.build import compare_many, compare_study

__all__ = ["compare_many", "compare_study"]
