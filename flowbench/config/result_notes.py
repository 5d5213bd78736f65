"""Notes of a `result.json` that commands look for."""

__all__ = ["UNDRAWN"]

UNDRAWN = "the pictures of the run's end are not drawn yet: flowbench figures RUN draws them"
"""Between the writing of a result and the drawing."""
