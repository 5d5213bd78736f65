"""Runs side by side in processes of this machine, one thread each."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowbench.config.experiments import config_id, content_of
from flowbench.config.schema import Experiment
from flowbench.errors import InputError, WorkFailedError
from flowbench.planning.estimate import PROCESS_BYTES, needed_memory
from flowbench.reproduction.agenda import Ended, Pair
from flowbench.reproduction.watching import Told
from flowbench.system.helpers import Helper, dismiss, heard
from flowbench.system.interruption import Interrupted, StopRequest
from flowbench.system.memory import has_room
from flowbench.system.progress import warn
from flowbench.system.threads import ONE_THREAD
from flowbench.tracking import Mirror
from flowbench.tracking.relayed import pass_on

__all__ = ["ATTEMPTS", "Workers"]

ATTEMPTS = 5
"""How often a run is begun or gone on with whose process dies without a word."""
POLL_SECONDS = 1.0


@dataclass
class _Order:
    """A run that a worker has been given."""

    experiment: Experiment[Any, Any]
    run: Path
    memory: int
    """Bytes, at its height."""


class Workers:
    """Makes so many runs at a time, each in a process that claims it, as other calls on this table do.

    What a worker trains is saved when this process stops or dies; a worker that is killed (no memory) loses its process
    only: another one goes on with the run.

    Args:
        out: the folder of the table's results.
        number: of processes, at most.
        mirror: follows every run.
    """

    def __init__(self, out: Path, number: int, mirror: Mirror) -> None:
        self._out, self._number, self._mirror = out, number, mirror
        self._idle: list[Helper] = []
        self._busy: dict[Helper, _Order] = {}
        self._memory: dict[str, int] = {}
        self.told: dict[Path, Told] = {}
        """What the runs at work say of themselves."""
        self._deaths: dict[Path, int] = {}
        self._not_before: dict[Path, float] = {}

    def run(self, queue: deque[Pair], show: Callable[[], None] = lambda: None) -> Generator[Ended]:
        """Make the runs of the queue, which may grow meanwhile, and yield each that has ended, with what went wrong.

        Raises:
            Interrupted: SIGINT or SIGTERM; all that was being trained is saved.
        """
        with StopRequest() as stop:
            try:
                while queue or self._busy:
                    if stop.signal is not None:
                        raise Interrupted(f"{self._out}: stopped and saved", stop.signal)
                    self._hand_out(queue)
                    ended = [self._judge(order, answer, queue) for order, answer in self._listen()]
                    # The next ones are at work while the caller writes down what has ended.
                    self._hand_out(queue)
                    yield from (one for one in ended if one is not None)
                    show()
            finally:
                dismiss([*self._idle, *self._busy])

    def _hand_out(self, queue: deque[Pair]) -> None:
        """Give out what is waiting while there are processes and memory for it; one run is always at work."""
        while queue and len(self._busy) < self._number:
            promised = {helper.pid: order.memory for helper, order in self._busy.items()}
            if not self._idle:
                if self._busy and not has_room(promised, PROCESS_BYTES):
                    return
                # It imports while this process counts what the run will need.
                self._idle.append(Helper("flowbench.reproduction.worker", ONE_THREAD))
            helper = self._idle[-1]
            order = next((one for one in self._due(queue) if self._fits(one, helper, promised)), None)
            if order is None:
                return
            queue.remove((order.experiment, order.run))
            self._busy[self._idle.pop()] = order
            self.told[order.run] = Told()
            helper.ask(
                experiment=content_of(order.experiment),
                out=str(self._out.absolute()),
                run=str(order.run.absolute()),
            )

    def _due(self, queue: deque[Pair]) -> Iterator[_Order]:
        """Yield what is waiting, but for runs that were claimed elsewhere a moment ago."""
        now = time.monotonic()
        for experiment, run in queue:
            if self._not_before.get(run, 0.0) <= now:
                yield _Order(experiment, run, self._needed(experiment))

    def _fits(self, order: _Order, helper: Helper, promised: dict[int, int]) -> bool:
        return not self._busy or has_room({**promised, helper.pid: order.memory})

    def _needed(self, experiment: Experiment[Any, Any]) -> int:
        key = config_id(experiment)
        if key not in self._memory:
            self._memory[key] = needed_memory(experiment)
        return self._memory[key]

    def _listen(self) -> Iterator[tuple[_Order, dict[str, str] | None]]:
        """Yield what workers say of their runs within a moment; None for one that died without a word."""
        for helper, answers in heard(self._busy, POLL_SECONDS):
            for answer in answers:
                if "doing" in answer:
                    self.told[self._busy[helper].run].hear(answer["doing"], answer["part"], time.time())
                elif not pass_on(answer, self._mirror):
                    self._idle.append(helper)
                    yield self._over(helper), answer
            if helper in self._busy and helper.status is not None:
                helper.wait()
                yield self._over(helper), None

    def _over(self, helper: Helper) -> _Order:
        """Return the order that a helper is done with."""
        order = self._busy.pop(helper)
        del self.told[order.run]
        return order

    def _judge(self, order: _Order, answer: dict[str, str] | None, queue: deque[Pair]) -> Ended | None:
        """Return a run's end; None where it waits again: it is claimed elsewhere, or its process died."""
        run = order.run
        if answer is None:
            self._deaths[run] = self._deaths.get(run, 0) + 1
            if self._deaths[run] == ATTEMPTS:
                return run, WorkFailedError(f"{run}: its process was killed {ATTEMPTS} times: out of memory?")
            warn(f"{run}: its process was killed: another one goes on with the run")
            queue.appendleft((order.experiment, run))
            return None
        if answer["state"] == "claimed":
            self._not_before[run] = time.monotonic() + POLL_SECONDS
            queue.append((order.experiment, run))
            return None
        errors = {"done": None, "skipped": InputError, "failed": WorkFailedError}
        kind = errors[answer["state"]]
        return run, None if kind is None else kind(answer["reason"])
