"""Signals that stop the work."""

import signal
import sys
import threading

import pytest

from flowbench.__main__ import main
from flowbench.system.interruption import Interrupted, StopRequest


class Signalling:
    """Is signalled while it is destroyed, where Python drops every exception."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def work_that_is_signalled() -> None:
    with StopRequest() as stop:
        stop.at_once("stopped here")
        Signalling()
        threading.Event().wait(20)


def test_a_signal_whose_exception_is_dropped_comes_again() -> None:
    before = (signal.getsignal(signal.SIGTERM), sys.unraisablehook)
    with pytest.raises(Interrupted, match="stopped here") as caught:
        work_that_is_signalled()
    assert caught.value.exit_code == 143
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


def test_other_dropped_exceptions_are_told_as_before() -> None:
    told = []
    hook, sys.unraisablehook = sys.unraisablehook, told.append
    try:
        with StopRequest() as stop:
            stop.at_once("stopped here")

            class Failing:
                def __del__(self) -> None:
                    raise ValueError("from a destructor")

            Failing()
    finally:
        sys.unraisablehook = hook
    assert [lost.exc_type for lost in told] == [ValueError]


def test_a_lost_terminal_stops_the_work_as_ctrl_c_does_unless_it_is_ignored() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
    assert stop.signal == signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.signal is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 143, "stopped"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_command_that_trains_nothing_ends_with_the_signals_code_and_one_line(
    number: signal.Signals, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr("flowbench.planning.doctor.examine", lambda: signal.raise_signal(number))
    monkeypatch.setattr(sys, "argv", ["flowbench", "doctor"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert (caught.value.code, capsys.readouterr().err.splitlines()[-1]) == (code, f"flowbench: {said}")
    assert signal.getsignal(number) == before
