"""A trial by several processes of this machine: the worker starts torchrun and answers what its first process asks.

The trial lives apart from the worker, so that what ends it (no memory, a lost process) ends it alone. Its processes ask
at every validation whether to go on: a trial is pruned at the same step as in one process.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Self

from optuna.exceptions import TrialPruned

from flowbench.config.experiments import dump_experiment
from flowbench.config.schema import Experiment
from flowbench.errors import WorkFailedError
from flowbench.runs.folder import RunFolder
from flowbench.system import atomic
from flowbench.system.interruption import Interrupted, StopRequest
from flowbench.tasks.task import Watch
from flowbench.tracking import Mirror

__all__ = ["CONFIG", "LOG", "QUESTIONS", "REQUEST", "train_together"]

LOG = "torchrun.log"
"""In the trial's run folder: all that its processes printed."""
CONFIG, REQUEST, QUESTIONS = "config.yaml", "request.json", "questions"
"""In the folder that is handed to the processes: what to train, how, and the socket to ask at."""
POLL_SECONDS = 0.2
LEAVE_SECONDS = 40.0
"""After a signal torchrun gives its processes 30 seconds to save."""


def train_together(
    experiment: Experiment[Any, Any],
    run: RunFolder,
    processes: int,
    *,
    time_budget: float | None,
    watch: Watch,
    mirror: Mirror,
    stop: StopRequest,
) -> dict[str, Any]:
    """Train a trial's run, new or begun, by several processes, and return its result, as `train` with `watch` does.

    Args:
        experiment: what to train.
        run: its folder.
        processes: how many, each on a GPU of its own where there are GPUs.
        time_budget: seconds of its steps.
        watch: told of every validation; may raise `TrialPruned`.
        mirror: follows the run from its beginning.
        stop: what asks this worker to stop; the processes then save and leave.

    Raises:
        TrialPruned: as `watch` did.
        Interrupted: the worker is stopped; the trial's state is saved.
        WorkFailedError: the processes failed, with the reason of the first.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="flowbench-") as name, _Questions(Path(name) / QUESTIONS) as questions:
        folder = Path(name)
        atomic.write_text(folder / CONFIG, dump_experiment(experiment))
        request = {"run": str(run.path.absolute()), "resume": run.exists, "time_budget": time_budget}
        atomic.write_json(folder / REQUEST, request)
        with (run.path / LOG).open("ab") as log, _torchrun(processes, folder, log) as process:
            pruned = _attend(process, questions, run, watch, mirror, stop)
        if pruned is not None:
            raise pruned
        if run.finished:
            return run.result
        if stop.signal is not None:
            raise Interrupted(f"{run.path}: stopped and saved", stop.signal)
        raise WorkFailedError(
            _cause(folder) or f"torchrun ended with status {process.returncode}: see {run.path / LOG}"
        )


def _attend(
    process: "subprocess.Popen[bytes]",
    questions: "_Questions",
    run: RunFolder,
    watch: Watch,
    mirror: Mirror,
    stop: StopRequest,
) -> TrialPruned | None:
    """Answer until the processes have ended; return why they were told to end, if they were."""
    pruned = None
    told = False
    while process.poll() is None:
        if stop.signal is not None and not told:
            process.terminate()
            told = True
        if run.exists:
            mirror.follow(run.path)
        question = questions.next(POLL_SECONDS)
        if question is None:
            continue
        try:
            watch(question["step"], question["figures"])
        except TrialPruned as error:
            pruned = error
        questions.answer({"go_on": pruned is None})
    return pruned


@contextmanager
def _torchrun(processes: int, folder: Path, log: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the processes; none is left when the block ends."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    process = subprocess.Popen(
        [*launcher, "-m", "flowbench.tuning.ranks", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches the worker alone, which passes it on
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _cause(folder: Path) -> str | None:
    """Return the error of the process that failed first: those of the others follow from it."""
    errors = sorted(folder.glob("error-*.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(errors[0].read_text(encoding="utf-8"))["error"] if errors else None


class _Questions:
    """The worker's end of the line to the first process: a JSON object a line, over a socket in a private folder."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._peer: socket.socket | None = None
        self._lines: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._lines, self._peer, self._listener):
            if one is not None:
                one.close()

    def next(self, seconds: float) -> dict[str, Any] | None:
        """Return the next question, or None if there was none within `seconds`."""
        waited_for = self._peer or self._listener
        if not select.select([waited_for], [], [], seconds)[0]:
            return None
        if self._peer is None:
            self._peer, _ = self._listener.accept()
            self._lines = self._peer.makefile("rb")
            return None
        assert self._lines is not None
        line = self._lines.readline()
        if not line:
            # Closed by a process that is leaving: without the pause this loop would spin until it has left.
            time.sleep(seconds)
            return None
        content: dict[str, Any] = json.loads(line)
        return content

    def answer(self, content: Mapping[str, Any]) -> None:
        """Answer the question that came last; a process that has gone is noticed by its exit status."""
        assert self._peer is not None
        with suppress(OSError):
            self._peer.sendall(json.dumps(content).encode() + b"\n")
