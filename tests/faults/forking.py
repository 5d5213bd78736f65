"""flowbench commands as children of a process that has imported everything: each starts in milliseconds, not seconds.

A child has its own process id, session, environment, folder and output, and dies by signals as any command does; what
it does not show is an import that is missing, which the tests of the wheel and of the documents do.
"""

import atexit
import json
import os
import pkgutil
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

from tests.few_pictures import leave_out_pictures

__all__ = ["Forked"]

POLL_SECONDS = 0.005


class Forked:
    """A running `flowbench ARGUMENTS`, with those methods of `subprocess.Popen` that the tests use."""

    def __init__(self, arguments: Sequence[str], cwd: Path | None, environment: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="flowbench-")
        self._ended: SimpleQueue[int] = SimpleQueue()
        request = {"arguments": list(arguments), "cwd": str(cwd or Path.cwd()), "environment": dict(environment)}
        self.pid = _Server.running().start({**request, "output": self._folder.name}, self._ended)

    def poll(self) -> int | None:
        """Return the exit status (minus a signal), or None while the command runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; raise TimeoutExpired where the command still runs after `timeout` seconds."""
        if self.returncode is None:
            try:
                self.returncode = self._ended.get(timeout=timeout) if timeout != 0 else self._ended.get_nowait()
            except Empty:
                raise subprocess.TimeoutExpired("flowbench", timeout or 0) from None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and return stdout and stderr."""
        self.wait(timeout)
        out, errors = (Path(self._folder.name, name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return out, errors

    def send_signal(self, number: int) -> None:
        """Send a signal to this process alone, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


class _Server:
    """The client's end of the process that forks: one for each process that runs tests."""

    _running: "_Server | None" = None

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        settings = {"FLOWBENCH_TRACKING": "off", "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "MPLBACKEND": "agg"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = Lock()
        self._started: SimpleQueue[int] = SimpleQueue()
        self._waiting: list[SimpleQueue[int]] = []
        self._queues: dict[int, SimpleQueue[int]] = {}
        Thread(target=self._listen, daemon=True).start()
        atexit.register(self._stop)

    @classmethod
    def running(cls) -> "_Server":
        if cls._running is None or cls._running._process.poll() is not None:
            cls._running = cls()
        return cls._running

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def start(self, request: Mapping[str, Any], ended: SimpleQueue[int]) -> int:
        assert self._process.stdin is not None
        with self._lock:
            self._waiting.append(ended)
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return self._started.get(timeout=600)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if "status" in answer:
                self._queues.pop(answer["pid"]).put(answer["status"])
            else:
                self._queues[answer["pid"]] = self._waiting.pop(0)
                self._started.put(answer["pid"])


def _serve() -> None:
    """Fork a child for every line of stdin; tell of its process id, and of its status when it has ended."""
    _import_all()
    leave_out_pictures(_replace)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children: set[int] = set()
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.buffer.raw, selectors.EVENT_READ)  # type: ignore[attr-defined]
        buffer = b""
        while True:
            for _ in selector.select(POLL_SECONDS if children else None):
                read = os.read(0, 1 << 20)
                if not read:
                    return
                buffer += read
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                child = os.fork()
                if child == 0:
                    selector.close()
                    _become(json.loads(line))
                children.add(child)
                _tell(pid=child)
            for child in [*children]:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    children.remove(child)
                    _tell(pid=child, status=os.waitstatus_to_exitcode(status))


def _replace(name: str, value: object) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(pkgutil.resolve_name(owner), attribute, value)


def _tell(**answer: int) -> None:
    os.write(1, (json.dumps(answer) + "\n").encode())


def _import_all() -> None:
    import sklearn.datasets
    import torch

    import flowbench.cli
    import flowbench.comparison
    import flowbench.figures.drawing
    import flowbench.reproduction.reproduce
    import flowbench.tracking.mirror
    import flowbench.training.loop
    import flowbench.tuning  # noqa: F401

    sklearn.datasets.load_digits()
    torch.set_num_threads(1)


def _become(request: Mapping[str, Any]) -> None:
    """Be the command: never returns."""
    from flowbench.__main__ import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for target, descriptor in ((os.devnull, 0), ("stdout", 1), ("stderr", 2)):
        opened = os.open(Path(request["output"], target), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["flowbench", *request["arguments"]]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        _leave(code)


def _leave(code: int) -> None:
    """End as an interpreter does: threads joined, exit functions called, output written; but not the server's stack."""
    import threading

    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
