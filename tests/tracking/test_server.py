"""A real `mlflow server`, killed and restarted while a run is live."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowbench.tracking import Mirror, import_run
from flowbench.tracking.probe import look
from tests.tracking.tracked_runs import FakeRun, Holdings, expected_rows, wait_for


class Server:
    """An `mlflow server` on a loopback port of its own, with its store in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        address = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        store = ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command = [sys.executable, "-m", "mlflow", "server", *address, *store]
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        self._process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=environment | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._answers, 90)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.start()
    yield server
    server.kill()


def held(server: Server, run: FakeRun) -> int:
    holdings = Holdings(server.uri)
    runs = holdings.runs(run.experiment)
    return len(holdings.history(runs[0], "train/bits_per_dim")) if runs else 0


@pytest.mark.slow
def test_a_server_killed_and_restarted_in_mid_run_gets_everything_once(
    server: Server, run: FakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    with Mirror() as mirror:
        run.rows(1, 10)
        mirror.follow(run.folder)
        wait_for(lambda: held(server, run) == 10)
        server.kill()
        run.rows(11, 1500)
        server.start()
        wait_for(lambda: held(server, run) == 1500)
        run.rows(1501, 1600)
        run.finish(1600)
    holdings = Holdings(server.uri)
    before = holdings.everything(holdings.only(run.experiment))
    assert before.items() >= expected_rows(run).items()
    assert [record for record in caplog.records if record.name == "flowbench.tracking"] == []
    import_run(run.folder)
    copy = holdings.only(run.experiment)
    assert holdings.everything(copy) == before
    assert copy.info.status == "FINISHED"
    assert [file.path for file in holdings.client.list_artifacts(copy.info.run_id, "figures")] == [
        "figures/samples.png"
    ]


@pytest.mark.slow
def test_a_server_that_is_down_at_the_end_gets_the_rest_by_import(
    server: Server, run: FakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    with Mirror() as mirror:
        run.rows(1, 10)
        mirror.follow(run.folder)
        wait_for(lambda: held(server, run) == 10)
        server.kill()
        run.rows(11, 20)
        run.finish(20)
    assert ["flowbench track import" in record.getMessage() for record in caplog.records] == [True]
    server.start()
    import_run(run.folder)
    holdings = Holdings(server.uri)
    assert holdings.everything(holdings.only(run.experiment)).items() >= expected_rows(run).items()


@pytest.mark.slow
def test_a_server_shows_nothing_of_the_run_that_looked_whether_it_takes_runs(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        assert look(server.uri) == (f"{server.uri}: takes runs", None)
    client = Holdings(server.uri).client
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]
    assert not list((tmp_path / "server").rglob("*.txt"))
    server.kill()
    words, remedy = look(server.uri)
    assert "takes no run" in words
    assert remedy is not None
