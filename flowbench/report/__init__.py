"""What people look at: tables as Markdown and CSV, and one self-contained HTML page."""

from flowbench.report.build import build
from flowbench.report.stored import build_from

__all__ = ["build", "build_from"]
