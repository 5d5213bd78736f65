"""A command that runs in the foreground with all that it starts, and ends with all of it."""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType

import psutil

from flowbench.system.interruption import Interrupted

__all__ = ["run_to_the_end"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 5.0
"""What processes get to leave by themselves before they are killed."""


def run_to_the_end(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command and return its exit status; a signal ends it, with every process that descends from it.

    To be called in the main thread.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGHUP; none of the processes is left.
    """

    def end(number: int, _: FrameType | None) -> None:
        # The first one is enough: what it began is bounded.
        for other in previous:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted("stopped", number)

    # What is ignored stays so: `nohup` means it.
    previous = {number: handler for number in ENDING if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    process = None
    try:
        for number in previous:
            signal.signal(number, end)
        process = subprocess.Popen(command, env=dict(environment))
        return process.wait()
    finally:
        if process is not None and process.returncode is None:
            _end(process)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process and all its descendants to leave; kill those that do not."""
    # Looked up before anyone leaves: whose parent is gone descends from nobody.
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.terminate()
    _, left = psutil.wait_procs(family, GRACE_SECONDS)
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, GRACE_SECONDS)
    process.wait()
