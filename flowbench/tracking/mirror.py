"""The mirror process: `python -m flowbench.tracking.mirror [tensorboard]`, started by `flowbench.tracking.Mirror`.

Reads commands from stdin, a JSON object a line: `{"follow": FOLDER}`, `{"done": FOLDER}`, `{"close": SECONDS}`.
At the end of stdin (the training closed it, or died) it finishes all copies and exits: with 0 if MLflow took
everything, and what there is to say of that on stdout, else with 1 and the reason there.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from flowbench.errors import FlowbenchError
from flowbench.tracking import content
from flowbench.tracking.events import EventCopy
from flowbench.tracking.places import tracking_uri
from flowbench.tracking.store import explain, open_client, patience
from flowbench.tracking.system import SystemSampler

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbench.tracking.tables import Copy

__all__ = ["Follower", "main"]

POLL_SECONDS = 1.0
LONGEST_PAUSE = 60.0
REQUEST_SECONDS = 10
ORPHAN_SECONDS = 120.0
"""Time to finish after the training died."""


class Follower:
    """Keeps the copies of the followed runs up to date, with growing pauses while MLflow fails.

    Args:
        uri: of MLflow's store.
        make: makes the copy of a run somewhere else instead.
    """

    def __init__(self, uri: str, make: "Callable[[Path], Copy] | None" = None) -> None:
        self._make = make
        self.reason = ""
        self.note = ""
        self._uri = uri
        self._client: Any = None
        self._copies: dict[Path, Copy | None] = {}
        self._ended: set[Path] = set()
        self._pause = 0.0
        self._resume_at = 0.0
        self._sampler = SystemSampler()

    def follow(self, folder: Path) -> None:
        """Mirror one more run; those before it that have a result and their pictures, or failed, have ended."""
        self._ended.update(other for other in self._copies if content.has_ended(other))
        self._copies.setdefault(folder, None)

    def done(self, folder: Path) -> None:
        """Finish the copy of a run at the next occasion."""
        self._ended.add(folder)

    def sweep(self) -> bool:
        """Bring all copies up to date, unless the pause after a failure still lasts; return whether all went well."""
        if time.monotonic() < self._resume_at:
            return False
        values = self._sampler.sample()
        # One run's failure must not keep the others waiting: all are tried.
        outcomes = [self._copy(folder, values) for folder in list(self._copies)]
        fine = all(outcomes)
        self._pause = 0.0 if fine else min(LONGEST_PAUSE, max(1.0, 2 * self._pause))
        self._resume_at = time.monotonic() + self._pause
        return fine

    def finish(self) -> bool:
        """Finish every copy; a failure that came quickly is given two more chances."""
        self._ended.update(self._copies)
        for _ in range(3):
            self._resume_at, begun = 0.0, time.monotonic()
            if self.sweep():
                return True
            if time.monotonic() - begun > 3:
                break
            time.sleep(0.3)
        return False

    def _copy(self, folder: Path, values: dict[str, float]) -> bool:
        try:
            copy = self._copies[folder] = self._copies[folder] or self._open(folder)
            if values and folder not in self._ended:
                copy.sample(values)
            if folder not in self._ended:
                copy.update()
                return True
            copy.finish()
            copy.close()
            del self._copies[folder]
            self.note = self.note or copy.note
        except Exception as error:
            self.reason = " ".join(str(error).split()) if isinstance(error, FlowbenchError) else explain(error)
            if (opened := self._copies[folder]) is not None and opened.note:
                self.reason = f"{self.reason}; {opened.note}"
            return False
        return True

    def _open(self, folder: Path) -> "Copy":
        if self._make is not None:
            return self._make(folder)
        # Seconds of imports, here where nobody waits for them.
        from flowbench.tracking.tables import copy_of

        self._client = self._client or open_client(self._uri)
        return copy_of(folder, self._client, self._uri, live=True)


def main() -> int:
    """Follow what stdin names until it ends; return the exit status."""
    os.nice(10)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # MLflow prints as it likes: stdout is kept for the reason alone.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    uri = tracking_uri()
    events = sys.argv[1:] == ["tensorboard"]
    if uri is None and not events:
        return 0
    commands: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    follower = Follower("", EventCopy) if events else Follower(uri or "")
    with patience(REQUEST_SECONDS, 0):
        seconds = _follow(follower, commands)
        # A request that hangs must not keep the process alive.
        deadline = threading.Timer(seconds, os._exit, (1,))
        deadline.daemon = True
        deadline.start()
        fine = follower.finish()
    answer.write(follower.note if fine else follower.reason)
    answer.flush()
    return 0 if fine else 1


def _follow(follower: Follower, commands: "SimpleQueue[dict[str, Any] | None]") -> float:
    """Work until stdin ends or the parent is gone; return the seconds that are left for finishing."""
    parent, seconds = os.getppid(), ORPHAN_SECONDS
    # Forked workers of the training may hold the pipe open: the parent's death is looked for as well.
    while os.getppid() == parent:
        try:
            command = commands.get(timeout=POLL_SECONDS)
        except Empty:
            follower.sweep()
            continue
        if command is None:
            break
        if "follow" in command:
            follower.follow(Path(command["follow"]))
        if "done" in command:
            follower.done(Path(command["done"]))
        seconds = float(command.get("close", seconds))
    return seconds


def _listen(commands: "SimpleQueue[dict[str, Any] | None]") -> None:
    for line in sys.stdin.buffer:
        commands.put(json.loads(line))
    commands.put(None)


if __name__ == "__main__":
    # Threads that hang in a request must not hold up the exit.
    status = main()
    sys.stderr.flush()
    os._exit(status)
