"""Runs shared out among processes: each is claimed by one, and a dead one's claim is free at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from flowbench.errors import InputError, why

__all__ = ["claim"]


@contextmanager
def claim(out: Path, run: Path) -> Iterator[bool]:
    """Give whether this process has the run to itself inside the block.

    The claim is a lock of the operating system on a file beside the runs: it dies with its process, also by SIGKILL,
    and, on a shared file system that carries locks (NFS 4, Lustre with flock), with its machine's lease.

    Args:
        out: the folder of the table's results.
        run: the run's folder in it.

    Raises:
        InputError: the folder cannot be written.
    """
    path = out / ".claims" / f"{run.name}.lock"
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {why(error)}: give another --out") from error
    try:
        yield True
    finally:
        lock.release()
