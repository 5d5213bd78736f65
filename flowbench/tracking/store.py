"""MLflow's side: its store opened with care, how long its server may take, and the pages on localhost."""

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock

from flowbench.errors import InputError, WorkFailedError
from flowbench.system.commands import run_to_the_end
from flowbench.system.credentials import scrubbed, without_credentials
from flowbench.tracking.pages import address_of_runs
from flowbench.tracking.places import sqlite_path, tracking_uri

__all__ = ["StoreError", "explain", "is_installed", "log_new", "open_client", "patience", "ui"]

_CREATION_SECONDS = 120
_SQL = ("sqlite", "postgresql", "mysql", "mssql")


class StoreError(InputError):
    """MLflow's store takes no runs as it is."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what, self.remedy = what, remedy


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
        "PGCONNECT_TIMEOUT": str(seconds),
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
    """Return an `MlflowClient` for the URI; an SQLite store that is not there yet is made.

    Raises:
        StoreError: MLflow takes no runs there: no store, one of another version or program, a missing driver.
    """
    if uri.partition(":")[0].partition("+")[0] not in _SQL:
        return _client(uri)
    from flowbench.system.databases import with_driver

    uri = with_driver(uri)
    database = sqlite_path(uri)
    if database is None:
        if uri.startswith("sqlite:"):
            raise StoreError(f"{without_credentials(uri)}: is kept in memory and then lost", "give sqlite:///FILE")
        _check_tables(uri)
        return _client(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that make one store at once break it; a second one waits here.
    with FileLock(f"{database}.lock", timeout=_CREATION_SECONDS):
        if database.exists():
            _check_tables(uri)
        else:
            from sqlalchemy.engine import make_url

            # Made beside and renamed: a process killed in the middle leaves no half-made store.
            unfinished = database.with_name(f"{database.name}.new")
            unfinished.unlink(missing_ok=True)
            _client(str(make_url(uri).set(database=str(unfinished)))).search_experiments(max_results=1)
            unfinished.replace(database)
        client = _client(uri)
        client.search_experiments(max_results=1)
    return client


def explain(error: BaseException) -> str:
    """Return in a few words, on one line and without secrets, why MLflow failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, socket.gaierror):
            return "unknown host"
        if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
            return "no answer in time"
        cause = cause.__cause__ or cause.__context__
    # Of SQLAlchemy's errors the driver's own words: the others are the statement and a link.
    words = " ".join(str(getattr(error, "orig", None) or error).split())
    return scrubbed("".join(c if c.isprintable() else " " for c in words))[:200] or type(error).__name__


def ui(port: int = 5000) -> None:
    """Serve MLflow's pages on localhost, and nowhere else, until interrupted.

    Raises:
        InputError: mlflow is missing or off, the port cannot be used, the URI is a server with pages of its own, or
            no store that MLflow can open.
        WorkFailedError: MLflow's server failed.
        Interrupted: a signal ended it; nothing that was started is left.
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
        name, page = address_of_runs(open_client(uri))
        what = f"the runs of {name}" if name else "no runs yet"
        print(f"{what}: http://127.0.0.1:{port}{page} (Ctrl-C ends it)", flush=True)
        from flowbench.system.databases import with_driver

        # The URI may hold a password: in the environment other users do not see it, on a command line they do.
        # Who looks at runs needs one process, and none of those that evaluate with language models: 2 GB otherwise.
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
        environment["MLFLOW_BACKEND_STORE_URI"] = with_driver(uri)
        place = ["--host", "127.0.0.1", "--port", str(port)]
        status = run_to_the_end([sys.executable, "-m", "mlflow", "ui", *place, "--workers", "1"], environment)
    if status > 0:
        raise WorkFailedError(f"mlflow ui stopped with exit status {status}: its own lines above say why")


def _client(uri: str) -> Any:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        return MlflowClient(uri)
    except MlflowException as error:
        raise StoreError(
            f"{without_credentials(uri)}: MLflow takes no runs there ({explain(error)})",
            "set MLFLOW_TRACKING_URI to sqlite:///FILE or to a server's http://HOST:PORT",
        ) from error


def _check_tables(uri: str) -> None:
    """Refuse a database that MLflow cannot use, or that it would change in a way that nobody asked for.

    MLflow itself tries an unreachable server for minutes, adds its tables to another program's, and migrates an older
    version's at once, after which the older MLflow of everybody else fails on them.
    """
    import sqlalchemy
    from mlflow.store import db_migrations

    from flowbench.system.databases import driver_package, tables_in

    shown = without_credentials(uri)
    try:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        tables = tables_in(engine, Path(db_migrations.__path__[0]), "experiments")
    except ImportError as error:
        raise StoreError(f"{shown}: a package is missing", f"pip install {driver_package(uri)}") from error
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        remedy = "mend it, or set MLFLOW_TRACKING_URI to another store"
        raise StoreError(f"{shown}: MLflow's store cannot be opened ({explain(error)})", remedy) from error
    problems = {
        "older": ("was made by an older MLflow", f"keep a copy, then: mlflow db upgrade {shown}"),
        "newer": ("was made by a newer MLflow", "pip install --upgrade mlflow"),
        "foreign": ("holds another program's tables", "set MLFLOW_TRACKING_URI to a database of MLflow's own"),
    }
    if tables in problems:
        what, remedy = problems[tables]
        raise StoreError(f"{shown}: {what}", remedy)


def log_new(metrics: Sequence[Any], client: Any, run_id: str) -> None:
    """Log those metrics that a run does not have at that time and step."""
    there = {
        (metric.key, metric.timestamp, metric.step)
        for name in {metric.key for metric in metrics}
        for metric in client.get_metric_history(run_id, name)
    }
    new = [metric for metric in metrics if (metric.key, metric.timestamp, metric.step) not in there]
    if new:
        client.log_batch(run_id, metrics=new, synchronous=True)
