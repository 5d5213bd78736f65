"""Ctrl-C and SIGTERM during a training: finish the step, save, then leave with the signal's exit code."""

import signal
import threading
from types import FrameType
from typing import Any, Self

__all__ = ["Interrupted", "StopRequest"]


class Interrupted(BaseException):
    """The work was stopped from outside after it had saved itself; nothing that catches errors holds it up."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = signal.Signals(number)
        self.exit_code = 128 + number


class StopRequest:
    """Within the block, the first SIGINT or SIGTERM only sets `signal`; a second one acts as usual.

    After `at_once`, the first one ends the work where it stands. Blocks nest: what stops the inner work (a training) is
    known to the outer one (a study), too.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._message: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def at_once(self, message: str) -> None:
        """Raise `Interrupted` with this message at a signal, also at one that came before."""
        self._message = message
        if self.signal is not None:
            raise Interrupted(message, self.signal)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()
        outer = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(outer, StopRequest):
            outer._note(number, None)
        if self._message is not None:
            raise Interrupted(self._message, number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
