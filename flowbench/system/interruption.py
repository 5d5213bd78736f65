"""Ctrl-C, SIGTERM and a lost terminal during a training: finish the step, save, leave with the signal's exit code."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

__all__ = ["Interrupted", "StopRequest", "raised_at_sigterm"]

INSIST_SECONDS = 0.05


class Interrupted(BaseException):
    """The work was stopped from outside after it had saved itself; nothing that catches errors holds it up."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = signal.Signals(number)
        self.exit_code = 128 + number


@contextmanager
def raised_at_sigterm() -> Iterator[None]:
    """Inside the block SIGTERM raises `Interrupted`, as Ctrl-C raises KeyboardInterrupt: what is open is closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise(number: int, _: FrameType | None) -> None:
    raise Interrupted("stopped", number)


class StopRequest:
    """Within the block, the first SIGINT, SIGTERM or SIGHUP only sets `signal`; a second one acts as usual.

    A SIGHUP that is ignored (`nohup`) stays so.

    After `at_once`, the first one ends the work where it stands. Blocks nest: what stops the inner work (a training) is
    known to the outer one (a study), too.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._message: str | None = None
        self._hook: Callable[[Any], object] | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        if self._hook is not None:
            sys.unraisablehook, self._hook = self._hook, None

    def at_once(self, message: str) -> None:
        """Raise `Interrupted` with this message, the last one given, at a signal, also at one that came before."""
        self._message = message
        if self._previous and self._hook is None:
            self._hook, sys.unraisablehook = sys.unraisablehook, self._insist
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

    def _insist(self, lost: Any) -> None:
        """Send the signal again: what it raised inside a destructor or a weak reference's callback was dropped."""
        if lost.exc_type is not Interrupted or self.signal is None or self._hook is None:
            (self._hook or sys.__unraisablehook__)(lost)
            return
        self._previous[self.signal] = signal.signal(self.signal, self._note)
        # Not from here: an exception inside this hook would be dropped as well.
        threading.Timer(INSIST_SECONDS, os.kill, (os.getpid(), self.signal)).start()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
