"""A command ends with all that descends from it."""

import os
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest

from flowbench.system import commands
from flowbench.system.commands import run_to_the_end
from flowbench.system.interruption import Interrupted

# As MLflow does it: a server that starts workers, one of them in a session of its own, one that does not listen.
SERVER = """
import os, signal, subprocess, sys
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
plain = "import time; print('up', flush=True); time.sleep(600)"
workers = [
    subprocess.Popen([sys.executable, "-c", code], start_new_session=own, stdout=subprocess.PIPE)
    for code, own in ((plain, True), (deaf, False))
]
for worker in workers:
    worker.stdout.readline()
with open(sys.argv[1], "w") as file:
    file.write(" ".join(str(pid) for pid in (os.getpid(), *(worker.pid for worker in workers))))
for worker in workers:
    worker.wait()
"""


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_all_that_the_command_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(commands, "GRACE_SECONDS", 0.3)
    pipe = tmp_path / "pids"
    os.mkfifo(pipe)
    pids: list[int] = []

    def interrupt() -> None:
        pids.extend(int(word) for word in pipe.read_text().split())  # waits until the server writes
        os.kill(os.getpid(), number)

    # Where the tests themselves run under nohup, SIGHUP is ignored.
    before = signal.signal(number, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(Interrupted) as caught:
            run_to_the_end([sys.executable, "-S", "-c", SERVER, str(pipe)], os.environ)
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert caught.value.exit_code == 128 + number
    assert len(pids) == 3
    assert not any(alive(pid) for pid in pids)


def test_what_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code = "import os, signal, sys; os.kill(os.getppid(), signal.SIGHUP); sys.exit(7)"
        assert run_to_the_end([sys.executable, "-S", "-c", code], os.environ) == 7
    finally:
        signal.signal(signal.SIGHUP, before)
