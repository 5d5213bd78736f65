"""Tables and the self-contained HTML report of a `results.json`."""

from flowbench.report.build import build

__all__ = ["build"]
