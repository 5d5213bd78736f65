"""Whether other programs keep this machine busy, in words."""

import os

__all__ = ["busy", "load"]

CROWDED = 1.25
"""Threads that want to compute, for each core, from which on people notice it."""


def load() -> tuple[float, int] | None:
    """Return how many threads wanted to compute on the whole machine, over a minute, and its cores; None: not known."""
    try:
        # Of the whole machine, also inside a container that has a share of it: so are the cores.
        return os.getloadavg()[0], os.cpu_count() or 1
    except OSError:
        return None


def busy(threads: int) -> str | None:
    """Say so where this machine has no free cores for so many more threads; None: it has."""
    known = load()
    if known is None:
        return None
    wanted, machine = known
    times = (wanted + threads) / machine
    if wanted < 0.5 or times <= CROWDED:
        return None
    return f"load {wanted:.1f} on {machine} core{'' if machine == 1 else 's'}"
