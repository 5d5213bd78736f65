"""MLflow's side: where the copies go, how long its server may take, and the pages on localhost."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock

from flowbench.errors import InputError, WorkFailedError
from flowbench.tracking.state import without_credentials

__all__ = ["artifact_location", "explain", "is_installed", "open_client", "patience", "tracking_uri", "ui"]

_DATABASE = "mlflow.db"
_CREATION_SECONDS = 120


def tracking_uri() -> str | None:
    """Return where the copies go: MLFLOW_TRACKING_URI, else `mlflow.db` in the working folder; None: switched off."""
    if os.environ.get("FLOWBENCH_TRACKING", "").strip().lower() == "off":
        return None
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if given:
        return given
    path = Path.cwd() / _DATABASE
    # In a URI a "?" begins the options and a "%" a character's number: such a folder is named relatively.
    return f"sqlite:///{_DATABASE}" if set("?%") & set(str(path)) else f"sqlite:///{path}"


def is_installed() -> bool:
    """Whether mlflow can be found; it is not imported."""
    return find_spec("mlflow") is not None


@contextmanager
def patience(seconds: int, retries: int) -> Iterator[None]:
    """Within the block a request to a server may take `seconds` and is repeated `retries` times.

    MLflow's own settings, 120 s and 7 times with growing pauses, would hold a dead server for alive for many minutes.
    Its usage reports to its makers are off.
    """
    wanted = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def open_client(uri: str) -> Any:
    """Return an `MlflowClient` for the URI; an SQLite store that is not there yet is made."""
    from mlflow.tracking import MlflowClient
    from sqlalchemy.engine import make_url

    database = _sqlite_path(uri)
    if database is None:
        return MlflowClient(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that make one store at once break it; a second one waits here.
    with FileLock(f"{database}.lock", timeout=_CREATION_SECONDS):
        if not database.exists():
            # Made beside and renamed: a process killed in the middle leaves no half-made store.
            unfinished = database.with_name(f"{database.name}.new")
            unfinished.unlink(missing_ok=True)
            MlflowClient(str(make_url(uri).set(database=str(unfinished)))).search_experiments(max_results=1)
            unfinished.replace(database)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


def artifact_location(uri: str, experiment: str) -> str | None:
    """Return where an experiment's files go: beside an SQLite store; None: the server decides."""
    database = _sqlite_path(uri)
    if database is None:
        return None
    parts = [part for part in experiment.split("/") if part not in ("", ".", "..")]
    return database.resolve().parent.joinpath("mlruns", *parts).as_uri()


def explain(error: BaseException) -> str:
    """Return in a few words, on one line, why MLflow failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, socket.gaierror):
            return "unknown host"
        if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
            return "no answer in time"
        cause = cause.__cause__ or cause.__context__
    return "".join(c if c.isprintable() else " " for c in " ".join(str(error).split()))[:200] or type(error).__name__


def ui(port: int = 5000) -> None:
    """Serve MLflow's pages on localhost, and nowhere else, until interrupted.

    Raises:
        InputError: mlflow is missing or off, the port cannot be used, or the URI is a server with pages of its own.
        WorkFailedError: MLflow's server failed.
    """
    uri = tracking_uri()
    if uri is None:
        raise InputError("FLOWBENCH_TRACKING=off: unset it to look at the tracked runs")
    if not is_installed():
        raise InputError("mlflow is not installed: pip install mlflow")
    if uri.startswith(("http://", "https://")):
        raise InputError(f"MLFLOW_TRACKING_URI is a server: open {without_credentials(uri)} in a browser")
    if not 1 <= port <= 65535:
        raise InputError(f"--port {port}: give a number from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(f"--port {port}: cannot be used: {error.strerror}: give another one") from error
    with patience(30, 2):
        open_client(uri)
        # The URI may hold a password: in the environment other users do not see it, on a command line they do.
        environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": uri}
        command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
        status = subprocess.run(command, env=environment, check=False).returncode
    if status > 0:
        raise WorkFailedError(f"mlflow ui stopped with exit status {status}: its own lines above say why")


def _sqlite_path(uri: str) -> Path | None:
    if not uri.startswith("sqlite:///"):
        return None
    from sqlalchemy.engine import make_url

    # As the library reads it: from its version 2.1 on, "%20" is a space.
    path = make_url(uri).database
    return Path(path) if path and path != ":memory:" else None
