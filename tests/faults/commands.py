"""The real command in processes of its own, alone or several together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from tests.faults.forking import Forked

FLOWBENCH = [sys.executable, "-m", "flowbench"]
LIMIT = 600.0

Process = subprocess.Popen[str] | Forked


def start(command: Sequence[str], cwd: Path | None = None, **environment: str) -> Process:
    """Start a command without tracking and with one thread; `environment` goes on top."""
    root = str(Path(__file__).resolve().parents[2])
    settings = {"FLOWBENCH_TRACKING": "off", "OMP_NUM_THREADS": "1", "PYTHONPATH": root} | environment
    if list(command[: len(FLOWBENCH)]) == FLOWBENCH:
        return Forked(command[len(FLOWBENCH) :], cwd, os.environ | settings)
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: Process, code: int = 0) -> tuple[str, str]:
    """Wait for the end, check the exit status, and return stdout and stderr."""
    out, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == code, errors
    return out, errors


def torchrun(ranks: int, *arguments: str) -> list[str]:
    """Return the command that starts `flowbench ARGUMENTS` in several processes, as people type it."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [*run, "-m", "flowbench", *arguments]


def start_ranks(ranks: int, command: Sequence[str]) -> list[Process]:
    """Start the processes that torchrun would start, without torchrun watching over them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    shared |= {"LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    return [start(command, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(ranks)]


def wait_until(condition: Callable[[], bool], *processes: Process) -> bool:
    """Wait until `condition` holds; return False if a process ended first."""
    limit = time.monotonic() + LIMIT
    while not condition():
        if any(process.poll() is not None for process in processes):
            return condition()
        assert time.monotonic() < limit
        time.sleep(0.01)
    return True


def words(process: psutil.Process) -> list[str]:
    """Return a process's command line; nothing where it has ended while it was looked at."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def kill(process: Process, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to this process alone."""
    process.send_signal(number)
