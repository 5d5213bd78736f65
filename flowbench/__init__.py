"""Reproduce, compare and time likelihood models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowbench.loading import load_run

__all__ = ["__version__", "load_run"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # torch is imported when a run is loaded, not when the package is.
    if name == "load_run":
        from flowbench.loading import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
