"""Reproduce, compare and time likelihood models."""

__version__ = "0.1.0"
