"""Processes that work for another one: what they answer, and that none is left whatever becomes of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from flowbench.system import helpers as module
from flowbench.system.helpers import Helper, dismiss, heard
from tests.faults.commands import wait_until

HELPER = "tests.system.echo_helper"
PARENT = f"""
import sys
from flowbench.system.helpers import Helper, heard
team = [Helper("{HELPER}", {{}}) for _ in range(2)]
for place, one in enumerate(team):
    one.ask(do="work", saved=sys.argv[1] + str(place))
waiting = len(team)
while waiting:
    waiting -= sum(len(answers) for _, answers in heard(team, 1.0))
print(*(one.pid for one in team), flush=True)
input()
"""


def test_a_request_is_answered_and_what_is_printed_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    helper = Helper(HELPER, {"WORDS": "x"})
    helper.ask(do="say", words="a warning")
    answers = heard([helper], 60.0)
    assert answers == [(helper, [{"state": "done", "request": {"do": "say", "words": "a warning"}}])]
    dismiss([helper])
    assert helper.status == -signal.SIGTERM
    assert capsys.readouterr().err == "printed by a library\na warning\n"


def test_one_that_is_killed_is_heard_of() -> None:
    helper = Helper(HELPER, {})
    helper.ask(do="die")
    assert wait_until(lambda: helper.status is not None)
    assert heard([helper], 60.0) == [(helper, [])]
    helper.ask(do="say", words="nobody listens")
    dismiss([helper])
    assert helper.status == -signal.SIGKILL


def test_an_answer_that_comes_between_listening_and_the_end_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    helper = Helper(HELPER, {})
    listen = module.select.select

    def late(readers: list[Helper], *_: Any) -> Any:
        """Listen for too short a time; then the helper answers and ends, before anything else is asked."""
        ready = listen(readers, [], [], 0)
        helper.ask(do="tell", seconds=0)
        wait_until(lambda: helper.status is not None)
        return ready

    with monkeypatch.context() as patched:
        patched.setattr(module.select, "select", late)
        assert heard([helper], 0) == []
    assert {"say": "trial 0: complete"} in heard([helper], 60.0)[0][1]
    dismiss([helper])


def test_who_is_dismissed_at_work_saves_first(tmp_path: Path) -> None:
    helper = Helper(HELPER, {})
    helper.ask(do="work", saved=str(tmp_path / "saved"))
    assert heard([helper], 60.0)[0][1] == [{"state": "at work"}]
    dismiss([helper])
    assert (tmp_path / "saved").read_text() == "SIGTERM"
    assert helper.status == 143


def test_a_second_ctrl_c_kills_who_takes_long_to_save(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    helper = Helper(HELPER, {})
    helper.ask(do="work", saved=str(tmp_path / "saved"))
    heard([helper], 60.0)
    monkeypatch.setattr(module.Helper, "let_go", lambda _: None)  # saves for ever
    monkeypatch.setattr(module.Helper, "wait", lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        dismiss([helper])
    monkeypatch.undo()
    helper.wait()
    assert helper.status == -signal.SIGKILL


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_parent_leaves_none_and_what_they_did_is_saved(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "saved")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
        text=True,
    )
    assert parent.stdout is not None
    team = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(team) == 2
    parent.kill()
    parent.communicate()
    gone, left = psutil.wait_procs(team, timeout=60)
    assert (len(gone), left) == (2, [])
    assert [(tmp_path / f"saved{place}").read_text() for place in range(2)] == ["SIGTERM"] * 2
