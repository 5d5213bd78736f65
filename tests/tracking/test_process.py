import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from flowbench.tracking import Mirror, import_run, read_mlflow_run_id
from tests.tracking.tracked_runs import FakeRun, Holdings, expected_rows, wait_for


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "flowbench.tracking"]


def child_of(mirror: Mirror) -> psutil.Process:
    assert mirror._process is not None
    return psutil.Process(mirror._process.pid)


def rows_held(holdings: Holdings, experiment: str) -> int:
    runs = holdings.runs(experiment)
    return len(holdings.history(runs[0], "train/bits_per_dim")) if runs else 0


def test_rows_arrive_while_the_run_is_live_and_once(
    run: FakeRun, holdings: Holdings, caplog: pytest.LogCaptureFixture
) -> None:
    run.rows(1, 5)
    with Mirror() as mirror:
        mirror.follow(run.folder)
        mirror.follow(run.folder)
        wait_for(lambda: rows_held(holdings, run.experiment) == 5)
        assert holdings.only(run.experiment).info.status == "RUNNING"
        assert read_mlflow_run_id(run.folder) == holdings.only(run.experiment).info.run_id
        run.rows(6, 20)
        wait_for(lambda: rows_held(holdings, run.experiment) == 20)
        # A resumed training cuts the rows past its checkpoint and writes them again.
        run.cut(10)
        run.rows(11, 30)
        run.finish(30)
    before = holdings.everything(holdings.only(run.experiment))
    assert before.items() >= expected_rows(run).items()
    assert before["test/bits_per_dim"][30][0] == 2.05
    assert holdings.only(run.experiment).info.status == "FINISHED"
    import_run(run.folder)
    assert holdings.everything(holdings.only(run.experiment)) == before
    assert warnings_in(caplog) == []


@pytest.mark.slow
def test_two_processes_follow_two_runs_in_one_store(run: FakeRun, holdings: Holdings, tmp_path: Path) -> None:
    other = FakeRun(tmp_path / "runs" / "run-2", run.experiment)
    with Mirror() as first, Mirror() as second:
        first.follow(run.folder)
        second.follow(other.folder)
        for one, began in ((run, 1.79e9), (other, 1.8e9)):
            one.rows(1, 1200, began=began)
            one.finish(1200)
    runs = holdings.runs(run.experiment)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert [len(holdings.history(run, "train/bits_per_dim")) for run in runs] == [1200, 1200]


@pytest.mark.slow
def test_two_processes_make_one_store_at_once(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    other = FakeRun(tmp_path / "runs" / "run-2", "glow/digits")
    with Mirror() as first, Mirror() as second:
        first.follow(run.folder)
        second.follow(other.folder)
        run.finish(0)
        other.finish(0)
        # On a busy machine the half minute of a training's end is too short to make a store.
        first.close(timeout=300)
        second.close(timeout=300)
    assert warnings_in(caplog) == []
    fresh = Holdings(f"sqlite:///{tmp_path}/mlflow.db")
    assert fresh.only(run.experiment).info.status == fresh.only("glow/digits").info.status == "FINISHED"
    assert (tmp_path / "mlruns" / "glow" / "digits").is_dir()


@pytest.mark.slow
def test_a_run_that_ended_without_a_result_is_killed_and_revived(run: FakeRun, holdings: Holdings) -> None:
    run.rows(1, 5)
    with Mirror() as mirror:
        mirror.follow(run.folder)
        mirror.done(run.folder)
        wait_for(lambda: [one.info.status for one in holdings.runs(run.experiment)] == ["KILLED"])
    with Mirror() as mirror:
        mirror.follow(run.folder)
        wait_for(lambda: holdings.only(run.experiment).info.status == "RUNNING")
        run.rows(6, 8)
        run.finish(8)
    assert holdings.only(run.experiment).info.status == "FINISHED"
    assert rows_held(holdings, run.experiment) == 8


def test_a_dead_server_costs_one_warning_and_the_run_can_be_imported(
    run: FakeRun, holdings: Holdings, store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        # Bound and not listening: connections are refused.
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{unused.getsockname()[1]}")
        mirror = Mirror()
        mirror.follow(run.folder)
        run.rows(1, 5)
        run.finish(5)
        begun = time.monotonic()
        mirror.close(timeout=60)
        assert time.monotonic() - begun < 40
    (warning,) = warnings_in(caplog)
    assert "connection refused; later: flowbench track import runs/run-1" in warning
    assert "secret" not in warning
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    import_run(run.folder)
    assert rows_held(holdings, run.experiment) == 5


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The URI of a server that takes requests and answers none of them until the test is over."""
    over = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            over.wait(120)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    over.set()
    server.shutdown()
    server.server_close()


def test_a_silent_server_holds_up_neither_training_nor_end(
    run: FakeRun, silent_server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server)
    mirror = Mirror()
    begun = time.monotonic()
    mirror.follow(run.folder)
    for number in range(1000):
        mirror.done(run.folder / str(number))
    assert time.monotonic() - begun < 2
    begun = time.monotonic()
    run.finish(0)
    mirror.close(timeout=3)
    assert time.monotonic() - begun < 5
    (warning,) = warnings_in(caplog)
    assert "no answer in time" in warning


def test_a_stopped_mirror_process_holds_up_nothing(run: FakeRun, caplog: pytest.LogCaptureFixture) -> None:
    mirror = Mirror()
    mirror.follow(run.folder)
    child = child_of(mirror)
    child.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    for number in range(5000):
        mirror.done(run.folder / str(number))
    run.finish(0)
    mirror.close(timeout=1)
    assert time.monotonic() - begun < 20
    assert len(warnings_in(caplog)) == 1


def test_a_killed_mirror_process_is_one_warning(run: FakeRun, caplog: pytest.LogCaptureFixture) -> None:
    mirror = Mirror()
    mirror.follow(run.folder)
    child = child_of(mirror)
    child.kill()
    run.finish(0)
    mirror.done(run.folder)
    mirror.close()
    assert len(warnings_in(caplog)) == 1


def test_off_means_off(run: FakeRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    with Mirror() as mirror:
        mirror.follow(run.folder)
    assert warnings_in(caplog) == []
    assert not (run.folder / "mlflow.json").exists()


def test_without_mlflow_there_is_one_warning(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with Mirror() as mirror:
        mirror.follow(run.folder)
        mirror.follow(tmp_path)
        mirror.done(run.folder)
    (warning,) = warnings_in(caplog)
    assert "mlflow is not installed" in warning


def test_a_broken_mlflow_is_one_warning(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "mlflow.py").write_text("raise ImportError('no such wheel')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    with caplog.at_level(logging.WARNING), Mirror() as mirror:
        mirror.follow(run.folder)
        run.finish(0)
    (warning,) = warnings_in(caplog)
    assert "no such wheel" in warning


@pytest.mark.slow
def test_the_mirror_outlives_a_killed_training_and_finishes(run: FakeRun, holdings: Holdings) -> None:
    run.rows(1, 5)
    program = f"""
import time
from flowbench.tracking import Mirror
mirror = Mirror()
mirror.follow({str(run.folder)!r})
print("following", flush=True)
time.sleep(600)
"""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    training = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
    try:
        assert training.stdout is not None
        assert training.stdout.readline() == b"following\n"
        (child,) = psutil.Process(training.pid).children()
    finally:
        training.kill()
        training.wait()
        training.stdout.close()
    child.wait(timeout=90)
    assert rows_held(holdings, run.experiment) == 5
    assert holdings.only(run.experiment).info.status == "KILLED"


def test_the_training_s_end_imports_neither_mlflow_nor_torch() -> None:
    program = "import sys, flowbench.tracking, flowbench.tracking.mirror; print({'mlflow', 'torch'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
