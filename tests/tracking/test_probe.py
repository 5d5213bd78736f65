"""What `flowbench doctor` says of MLflow's store: a run is really made there, and nothing of it stays."""

import shlex
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flowbench.tracking import import_run, tracking_uri
from flowbench.tracking.probe import look, probe
from tests.tracking.tracked_runs import FakeRun, Holdings


@pytest.fixture
def own_store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own: its database, in a folder of its own."""
    database = tmp_path / "store" / "mlflow.db"
    database.parent.mkdir()
    shutil.copyfile(empty_store, database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    return database


def found() -> tuple[str, str | None]:
    return look(tracking_uri() or "")


def contents(database: Path) -> dict[str, list[tuple[object, ...]]]:
    connection = sqlite3.connect(database)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}
    connection.close()
    return rows


def change(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    connection.executescript(statement)
    connection.close()


@pytest.mark.slow
def test_a_store_that_takes_runs_is_as_it_was(own_store: Path) -> None:
    before = contents(own_store)
    words, remedy = probe()
    assert words.endswith("takes runs")
    assert remedy is None
    assert contents(own_store) == before
    assert [path.name for path in own_store.parent.iterdir() if path.suffix != ".lock"] == ["mlflow.db"]


def test_a_store_that_is_not_there_yet_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new/mlflow.db")
    assert found() == (f"sqlite:///{tmp_path}/new/mlflow.db: is not there yet, and can be written", None)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    words, remedy = found()
    assert "cannot be written" in words
    assert remedy is not None


@pytest.mark.parametrize(
    ("statement", "problem", "way_out"),
    [
        ("UPDATE alembic_version SET version_num = '451aebb31d03'", "older MLflow", "mlflow db upgrade sqlite:///"),
        ("UPDATE alembic_version SET version_num = 'ffffffffffff'", "newer MLflow", "pip install --upgrade mlflow"),
        ("DROP TABLE experiments; UPDATE alembic_version SET version_num = 'v3.2.0.a'", "another program's", "own"),
        ("CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(FAIL, 'disk is full'); END", "is full", "mend"),
    ],
)
def test_a_store_that_takes_no_runs_says_why(own_store: Path, statement: str, problem: str, way_out: str) -> None:
    change(own_store, statement)
    before = contents(own_store)
    words, remedy = found()
    assert problem in words
    assert way_out in (remedy or "")
    assert contents(own_store) == before


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///{}/no.db", "not a database"),
        ("{}/mlruns", "takes no runs"),
        ("ftp://me:secret@host/x", "takes no runs"),
        ("postgresql://me:secret@127.0.0.1:1/x?sslpassword=secret", "efused"),
        ("http://me:secret@127.0.0.1:1", "connection refused"),
    ],
)
def test_what_is_no_store_has_a_remedy(uri: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no.db").write_text("no database, but long enough to be taken for one" * 40)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(tmp_path))
    words, remedy = found()
    assert problem in words
    assert remedy is not None
    assert "secret" not in words + remedy


@pytest.fixture
def refusing_server() -> Iterator[str]:
    """The address of a server that knows nobody."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b"who are you?")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_wants_a_name_is_told_apart(refusing_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{refusing_server}")
    words, remedy = found()
    assert words.startswith(f"http://{refusing_server}: takes no run")
    assert "MLFLOW_TRACKING_TOKEN" in (remedy or "")


def test_the_time_is_limited(store: str) -> None:
    words, remedy = probe(0.1)
    assert "no answer within" in words
    assert remedy is not None


def test_a_moved_store_is_told_with_the_commands_that_mend_it(
    own_store: Path, run: FakeRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run.finish(0)
    import_run(run.folder)
    assert caplog.messages == []
    moved = own_store.parent.rename(own_store.parent.with_name("moved"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved}/mlflow.db")
    other = FakeRun(run.folder.with_name("run-2"), run.experiment)
    other.finish(0)
    import_run(other.folder)
    (line,) = caplog.messages
    assert f"was moved from {own_store.parent}, and files still go there: flowbench doctor" in line
    words, remedy = found()
    assert f"still go to {own_store.parent}" in words
    assert remedy is not None
    program, database, statements = shlex.split(remedy.partition("then: ")[2])
    assert (program, database) == ("sqlite3", f"{moved}/mlflow.db")
    change(moved / "mlflow.db", statements)
    assert found() == (f"sqlite:///{moved}/mlflow.db: takes runs", None)
    held = Holdings(f"sqlite:///{moved}/mlflow.db").runs(run.experiment)
    assert {one.info.artifact_uri.partition("/mlruns")[0] for one in held} == {moved.as_uri()}
