"""The fixtures of studies."""

from tests.studies import formula, lab

__all__ = ["formula", "lab"]
