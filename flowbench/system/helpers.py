"""Processes that work for this one: each gets requests, gives answers, and ends with this process however that ends.

Requests and answers are JSON objects, a line each, over the helper's stdin and stdout. A helper whose stdin ends, since
its parent has let go of it or was killed, sends itself SIGTERM: what it was training saves itself.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

__all__ = ["Helper", "Served", "dismiss", "heard", "own_module"]


def own_module(name: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that run a module of flowbench in a process of its own."""
    # The working folder must not shadow modules (-P), and an uninstalled flowbench is found as it was found here.
    root = Path(__file__).resolve().parents[2]
    places = [str(root), os.environ.get("PYTHONPATH", "")] if "-packages" not in root.name else []
    environment = os.environ | ({"PYTHONPATH": os.pathsep.join(filter(None, places))} if places else {})
    return [sys.executable, "-P", "-m", name], environment


class Helper:
    """The parent's end: a module of flowbench that runs `Served` in a process of its own.

    What it prints goes to this process's stderr, line by line.

    Args:
        module: its name.
        environment: on top of this process's.
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        command, ours = own_module(module)
        self._process = subprocess.Popen(
            command,
            env={**ours, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which lets go
        )
        self._rest = b""
        self._printed = threading.Thread(target=_repeat, args=(self._process.stderr,), daemon=True)
        self._printed.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, minus the signal that killed it; None while it runs."""
        return self._process.poll()

    def ask(self, **request: Any) -> None:
        """Send a request; one that has gone is noticed by its status."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def answers(self) -> list[dict[str, Any]]:
        """Return the answers that have come; waits for one, or for the helper's end."""
        *lines, self._rest = (self._rest + os.read(self.fileno(), 1 << 16)).split(b"\n")
        return [json.loads(line) for line in lines]

    def fileno(self) -> int:
        """Return the descriptor of its answers, to wait for."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def let_go(self) -> None:
        """End its stdin: it saves and leaves."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def wait(self) -> None:
        """Wait until it has left, and until what it printed is shown."""
        self._process.wait()
        self._printed.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def kill(self) -> None:
        """End it where it stands, with what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def heard(helpers: Collection[Helper], seconds: float) -> list[tuple[Helper, list[dict[str, Any]]]]:
    """Return the helpers that have answered, with what, and those that have ended without, within so many seconds."""
    # Asked before listening: what a helper said before its end is then heard, however soon after it the end came.
    ended = [helper for helper in helpers if helper.status is not None]
    ready = select.select(list(helpers), [], [], seconds)[0]
    silent = [helper for helper in ended if helper not in ready]
    return [*((helper, helper.answers()) for helper in ready), *((helper, []) for helper in silent)]


def dismiss(helpers: Collection[Helper]) -> None:
    """Let all of them save and leave, and wait; what interrupts the wait, as a second Ctrl-C does, kills them."""
    for helper in helpers:
        helper.let_go()
    try:
        for helper in helpers:
            helper.wait()
    except BaseException:
        for helper in helpers:
            helper.kill()
        raise


def _repeat(lines: IO[bytes]) -> None:
    with lines:
        for line in lines:
            sys.stderr.write(line.decode(errors="replace"))
            sys.stderr.flush()


class Served:
    """The helper's end: iterate over the requests, and answer; to be made once, before anything is printed."""

    def __init__(self) -> None:
        # Libraries print as they like: stdout is kept for answers alone.
        self._answers = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._requests: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (request := self._requests.get()) is not None:
            yield request

    def answer(self, **content: Any) -> None:
        """Answer in one write: threads do not mix theirs. A parent that is gone hears nothing."""
        with suppress(BrokenPipeError):
            self._answers.write(json.dumps(content).encode() + b"\n")

    def _listen(self) -> None:
        with open(0, "rb", closefd=False) as requests:
            for line in requests:
                self._requests.put(json.loads(line))
        os.kill(os.getpid(), signal.SIGTERM)
        self._requests.put(None)
