import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from flowbench.errors import InputError
from flowbench.system.credentials import without_credentials
from flowbench.tracking import tracking_uri, ui
from flowbench.tracking.places import artifact_location
from flowbench.tracking.store import explain, open_client, patience
from tests.faults.commands import words
from tests.tracking.tracked_runs import wait_for


def test_the_default_is_a_file_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " ")
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "what?").mkdir()
    monkeypatch.chdir(tmp_path / "what?")
    assert tracking_uri() == "sqlite:///mlflow.db"


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri() == "http://127.0.0.1:5000"
    monkeypatch.setenv("FLOWBENCH_TRACKING", "Off")
    assert tracking_uri() is None


def test_files_lie_beside_the_database_whatever_the_experiment_is_called() -> None:
    assert artifact_location("sqlite:////a b/mlflow.db?timeout=5", "real_nvp/digits") == (
        "file:///a%20b/mlruns/real_nvp/digits"
    )
    assert artifact_location("sqlite:////a/mlflow.db", "../../x") == "file:///a/mlruns/x"
    assert artifact_location("http://127.0.0.1:5000", "x") is None


def test_patience_gives_way_to_the_user_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with patience(10, 0):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.slow
def test_a_store_may_have_an_odd_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = 'ü %20 #x; "y"'  # no apostrophe: mlflow puts its working folder into SQL as it is
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for uri in (tracking_uri(), f"sqlite:///{tmp_path}/{quote(name)}.db"):
        assert uri is not None
        client = open_client(uri)
        assert client.get_experiment(client.create_experiment("mine")).name == "mine"
    assert {path.name for path in folder.iterdir()} >= {"mlflow.db"}
    assert f"{name}.db" in {path.name for path in tmp_path.iterdir()}


def test_a_uri_is_shown_without_secrets_and_control_characters() -> None:
    assert without_credentials("http://me:secret@host:5") == "http://host:5"
    assert without_credentials("http://\x1b[31mred:5") == "http:// [31mred:5"


@pytest.mark.slow
def test_a_half_made_store_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db.new").write_bytes(b"torn")
    client = open_client(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_experiment_by_name("nothing") is None
    assert not (tmp_path / "mlflow.db.new").exists()


def test_reasons_are_one_line() -> None:
    assert explain(ValueError("a\n  b\x1b[0m\n")) == "a b [0m"
    assert explain(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("uri", "port", "message"),
    [("http://me:secret@host:5", 5000, r"open http://host:5 in a browser"), (None, 0, "1 to 65535")],
)
def test_ui_refuses(uri: str | None, port: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=message):
        ui(port)


def test_ui_refuses_a_taken_port_and_when_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="cannot be used"):
            ui(taken.getsockname()[1])
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    with pytest.raises(InputError, match="FLOWBENCH_TRACKING"):
        ui()


@pytest.mark.slow
def test_ui_serves_localhost_alone() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = Path(__file__).resolve().parents[2]
    program = f"from flowbench.tracking import ui; ui({port})"
    environment = os.environ | {"PYTHONPATH": str(root)}
    server = subprocess.Popen([sys.executable, "-c", program], env=environment, start_new_session=True)

    def answers() -> bool:
        assert server.poll() is None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    try:
        wait_for(answers)
        below = [" ".join(words(one)) for one in psutil.Process(server.pid).children(recursive=True)]
        assert not [line for line in below if "mlflow.server.jobs" in line]
        # All of 127/8 is this machine: a server bound to every address would answer here too.
        with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=5):
            pass
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
