"""A server that forks flowbench commands: the seconds of imports are spent once, and kills land in the work itself.

Reads a JSON list of arguments a line from stdin; answers with the child's process id, then with its exit status.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Self

__all__ = ["Forks"]


class Forks:
    """The server's client: one command at a time."""

    def __init__(self, cwd: Path) -> None:
        self.errors = cwd / "stderr"
        root = str(Path(__file__).resolve().parents[2])
        settings = {"FLOWBENCH_TRACKING": "off", "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(self.errors)],
            cwd=cwd,
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: SimpleQueue[int] = SimpleQueue()
        Thread(target=self._listen, daemon=True).start()

    def start(self, *arguments: str) -> int:
        """Start a command and return its process id."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        return self._answers.get(timeout=600)

    def wait(self, timeout: float) -> int | None:
        """Return the exit status (minus a signal), or None if the command still runs after `timeout` seconds."""
        try:
            return self._answers.get(timeout=timeout)
        except Empty:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.communicate()

    def _listen(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            self._answers.put(int(line))


def _serve(errors: str) -> None:
    from flowbench import __main__, cli  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line), errors)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(arguments: list[str], errors: str) -> None:
    from flowbench.__main__ import main

    for target, descriptor in ((os.devnull, 0), (os.devnull, 1), (errors, 2)):
        os.dup2(os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = ["flowbench", *arguments]
    try:
        main()
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(int(end.code or 0))


if __name__ == "__main__":
    _serve(sys.argv[1])
