"""Memory of this machine: what is free for another process, and what a process keeps between its steps."""

import ctypes
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["available_memory", "has_room", "keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep what it frees: what one step gives back the next one takes again.

    glibc hands the freed activations to the system, which clears and maps them anew page by page: 4 to 5 % of a
    training step of Real NVP, more of its likelihood (2026-11). The most that is in use stays the same. Linux only;
    elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            # An older glibc refuses more than 32 MiB, and would then map every tensor of 128 KiB by itself.
            libc.mallopt(_MMAP_THRESHOLD, 2**30) or libc.mallopt(_MMAP_THRESHOLD, 2**25)
            libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def available_memory(container: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that processes may still take: of the machine, and no more than its container may.

    Args:
        container: the folder in which Linux says what a container may take and has taken.
    """
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError, KeyError):  # no container, or "max": no limit
        limit = int((container / "memory.max").read_text(encoding="ascii"))
        taken = int((container / "memory.current").read_text(encoding="ascii"))
        lines = (container / "memory.stat").read_text(encoding="ascii").splitlines()
        # Files that were read count as taken, and are given back when they are in the way.
        given_back = int(dict(line.split() for line in lines)["inactive_file"])
        free = min(free, limit - taken + given_back)
    return max(free, 0)


def has_room(promised: Mapping[int, int], new: int = 0) -> bool:
    """Say whether what processes will have taken at their height fits into memory.

    Args:
        promised: bytes, by process id; what a process has taken of them already is not looked for again.
        new: bytes of a process that is not there yet.
    """
    return new + sum(max(0, most - _taken(process)) for process, most in promised.items()) <= available_memory()


def _taken(process: int) -> int:
    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
