"""Data sets obtained, prepared as the papers did, and verified."""

from flowbench.data.preparing.catalogue import SetRow, SplitState, list_sets, prepare, progress_bar, verify

__all__ = ["SetRow", "SplitState", "list_sets", "prepare", "progress_bar", "verify"]
