"""Where studies are kept: an SQLite file, a database server, or Optuna's gRPC proxy before one.

All of them have heartbeats: the trial of a killed worker is marked failed, and its point is tried again.
"""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages._rdb import alembic as migrations
from optuna.trial import FrozenTrial, TrialState

from flowbench.errors import InputError, WorkFailedError
from flowbench.system.credentials import scrubbed, without_credentials
from flowbench.system.databases import driver_package, tables_in, with_driver

__all__ = ["DEFAULT_STORAGE", "explained", "open_storage", "retried"]

DEFAULT_STORAGE = "sqlite:///optuna.db"
HEARTBEAT_SECONDS = 60
GRACE_SECONDS = 300
"""Long enough that a busy worker or a slow database is not taken for dead (Optuna's issue 5470)."""
RETRIES = 3
BUSY_SECONDS = 120
"""How long a worker waits for the others' writes to an SQLite file."""
SQLITE_MAGIC = b"SQLite format 3\0"
"""The first bytes of each of its databases."""
_SHAPES = f"{DEFAULT_STORAGE}, postgresql://USER@HOST/NAME or grpc://HOST:PORT"


def open_storage(
    url: str, *, heartbeat: int = HEARTBEAT_SECONDS, grace: int = GRACE_SECONDS, make: bool = True
) -> BaseStorage:  # fmt: skip
    """Open the storage at `url`: `sqlite:///FILE`, `postgresql://…`, another SQLAlchemy URL, or `grpc://HOST:PORT`.

    Args:
        url: of the storage.
        heartbeat: seconds between a running trial's signs of life.
        grace: seconds without one after which another worker takes a trial for dead and tries its point again.
        make: make an SQLite file that is not there.

    Raises:
        InputError: no such storage, one of another version or program, a missing driver, a server that does not answer.
    """
    optuna.logging.set_verbosity(logging.ERROR)
    scheme, shown = urlsplit(url).scheme.partition("+")[0], without_credentials(url)
    if not scheme or "://" not in url:
        raise InputError(f"--storage {shown}: write a URL: {_SHAPES}")
    if not make and scheme == "sqlite" and not Path(sqlalchemy.make_url(url).database or "").is_file():
        raise InputError(f"--storage {shown}: there is no such file: say where the study is kept")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            retry = RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)
            if scheme == "grpc":
                return _open_proxy(url, heartbeat, grace, retry)
            if scheme == "sqlite":
                return _open_sqlite(url, heartbeat, grace, retry)
            return _open_database(with_driver(url), heartbeat, grace, retry, pool_pre_ping=True)
    except ImportError as error:
        package = "grpcio protobuf" if scheme == "grpc" else driver_package(url)
        raise InputError(f"--storage {shown}: a package is missing: pip install {package}") from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"--storage {shown}: cannot be opened: {_reason(error, url)}: give {_SHAPES}") from error


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn a storage's failure inside the block into one line that names it and the way out.

    Raises:
        WorkFailedError: the storage failed; what it holds is kept.
    """
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason, shown = _reason(error, url), without_credentials(url)
        way_out = "run the same command again to go on"
        if "database is locked" in reason:
            way_out = (
                f"SQLite is for a few workers on one machine: use --storage postgresql://USER@HOST/NAME, or {way_out}"
            )
        raise WorkFailedError(f"--storage {shown}: failed: {reason}: {way_out}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "grpc":
            raise
        raise WorkFailedError(
            f"--storage {without_credentials(url)}: does not answer: start Optuna's proxy there, then run the same "
            "command again to go on"
        ) from error


def retried(trial: FrozenTrial) -> int | None:
    """Return the number of the first trial of a point that is tried again because its worker died; None: it is new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)


class _Database(RDBStorage):
    """Optuna's, in which a trial that is taken up again lives from its first moment, not from its next heartbeat."""

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Say that it lives before it runs: by its last beat, of hours ago, another worker would call it dead."""
        if state == TrialState.RUNNING:
            self.record_heartbeat(trial_id)
        return super().set_trial_state_values(trial_id, state, values)


class _BeatingProxy(GrpcStorageProxy, BaseHeartbeat):  # type: ignore[misc, unused-ignore]
    """Optuna's gRPC storage proxy, which knows no heartbeats, with heartbeats: the time, as an attribute of the trial.

    The workers' clocks must agree to well within the grace period.
    """

    def __init__(self, host: str, port: int, interval: int, grace: int, retry: Any) -> None:
        super().__init__(host=host, port=port)
        self._interval, self._grace, self._retry = interval, grace, retry

    def record_heartbeat(self, trial_id: int) -> None:
        """Say that the trial's worker lives."""
        try:
            self.set_trial_system_attr(trial_id, "heartbeat", time.time())
        except optuna.exceptions.UpdateFinishedTrialError:
            return

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Say that it lives before it runs, as `_Database`."""
        if state == TrialState.RUNNING:
            self.record_heartbeat(trial_id)
        done: bool = super().set_trial_state_values(trial_id, state, values)
        return done

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        last = {trial._trial_id: trial.system_attrs.get("heartbeat") for trial in running}
        return [trial_id for trial_id, beat in last.items() if beat is not None and time.time() - beat > self._grace]

    def get_heartbeat_interval(self) -> int:
        """Return the seconds between two heartbeats."""
        return self._interval

    def get_heartbeat_stale_trial_callback(self) -> Any:
        """Return what is done with a trial whose heart has stopped."""
        return self._retry


def _open_proxy(url: str, heartbeat: int, grace: int, retry: Any) -> BaseStorage:
    parts = urlsplit(url)
    if parts.hostname is None:
        raise InputError(f"--storage {without_credentials(url)}: write grpc://HOST:PORT")
    return _BeatingProxy(parts.hostname, parts.port or 13000, heartbeat, grace, retry)


def _open_sqlite(url: str, heartbeat: int, grace: int, retry: Any) -> BaseStorage:
    database = Path(sqlalchemy.make_url(url).database or "")
    if not database.parent.is_dir():
        raise InputError(f"--storage {without_credentials(url)}: there is no folder {database.parent}: make it first")
    if database.is_file() and database.stat().st_size and not _is_sqlite(database):
        # Before there is a lock's file: beside one that is no database nothing is left.
        raise InputError(f"--storage {without_credentials(url)}: {database} is not a database: give another file")
    # Workers that start together would make the tables together, and all but one would fail.
    with FileLock(f"{database}.lock", timeout=BUSY_SECONDS):
        storage = _open_database(url, heartbeat, grace, retry, connect_args={"timeout": BUSY_SECONDS})

    # SQLite gives up at once, whatever the timeout, when two transactions that have read both want to write.
    # Those that take the write lock at their beginning queue instead.
    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def _no_transaction_of_its_own(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(storage.engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    # Connections that were opened before the listeners know nothing of them.
    storage.engine.dispose()
    return storage


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


def _open_database(url: str, heartbeat: int, grace: int, retry: Any, **engine: Any) -> RDBStorage:
    _check_tables(url, engine)
    for attempt in range(5):
        try:
            return _Database(
                url,
                engine_kwargs=engine,
                heartbeat_interval=heartbeat,
                grace_period=grace,
                heartbeat_stale_trial_callback=retry,
            )
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            # Workers that start together make the tables together: all but one find them half made, and look again.
            if attempt == 4:
                raise
            time.sleep(0.3 * (attempt + 1))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _check_tables(url: str, engine: Any) -> None:
    """Refuse the tables of another version or program, to which Optuna would add its own before it fails."""
    looked_at = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.NullPool, connect_args=engine.get("connect_args", {})
    )
    tables, shown = tables_in(looked_at, Path(migrations.__path__[0]), "studies"), without_credentials(url)
    problems = {
        "older": f"was made by an older Optuna: keep a copy, then: optuna storage upgrade --storage {shown}",
        "newer": f"was made by a newer Optuna than {optuna.__version__}: pip install --upgrade optuna",
        "foreign": "holds another program's tables: give a database of its own",
    }
    if tables in problems:
        raise InputError(f"--storage {shown}: {problems[tables]}")


def _reason(error: Exception, url: str) -> str:
    cause = getattr(error, "orig", None) or (error.__cause__ if error.__cause__ is not None else error)
    return scrubbed(" ".join(str(getattr(cause, "orig", None) or cause).split()), url)[:200]
