"""A table's folder shared by processes: each run is claimed by one, and one at a time writes down what is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from flowbench.errors import InputError, why

__all__ = ["claim", "writing"]


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
    lock = _lock(out, f"{run.name}.lock")
    try:
        _acquire(lock, out, seconds=0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Let no other call on a table write its results inside the block; wait for one that does.

    Raises:
        InputError: the folder cannot be written.
    """
    lock = _lock(out, "results.lock")
    _acquire(lock, out, seconds=-1)
    try:
        yield
    finally:
        lock.release()


def _lock(out: Path, name: str) -> filelock.BaseFileLock:
    return filelock.FileLock(out / ".claims" / name)


def _acquire(lock: filelock.BaseFileLock, out: Path, seconds: float) -> None:
    """Raise filelock.Timeout where another process still has it after `seconds`; below 0 there is no limit."""
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except filelock.Timeout:
        raise
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {why(error)}: give another --out") from error
