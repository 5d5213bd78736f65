"""What people look at: tables in four forms, and one self-contained HTML page."""

from flowbench.report.build import build
from flowbench.report.keeping import keep
from flowbench.report.stored import build_from

__all__ = ["build", "build_from", "keep"]
