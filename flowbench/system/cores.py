"""The cores that this process may compute on."""

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["cores"]


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many cores this process may use: those it is bound to, and no more than its container's share.

    Args:
        quota: the file in which Linux says what share a container has.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container, or "max": no limit
        microseconds, period = quota.read_text(encoding="ascii").split()
        return max(1, min(bound, int(microseconds) // int(period)))
    return bound
