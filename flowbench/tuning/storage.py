"""Where studies are kept: an SQLite file, a database server, or Optuna's gRPC proxy before one."""

import logging
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowbench.errors import InputError
from flowbench.tracking.state import without_credentials

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

__all__ = ["DEFAULT_STORAGE", "open_storage"]

DEFAULT_STORAGE = "sqlite:///optuna.db"

HEARTBEAT_SECONDS = 30
"""Long enough that a busy worker is not taken for dead (Optuna issue 5470)."""
GRACE_SECONDS = 150
BUSY_SECONDS = 60
"""How long a worker waits for another one's write to an SQLite file."""
ATTEMPTS = 5
DRIVERS = {"postgresql": "psycopg2-binary", "mysql": "PyMySQL"}


def open_storage(url: str, *, heartbeat: int = HEARTBEAT_SECONDS, grace: int = GRACE_SECONDS) -> "BaseStorage":
    """Open the storage at `url`: `sqlite:///FILE`, `postgresql://…`, `mysql://…`, or `grpc://HOST:PORT`.

    Args:
        url: of the storage.
        heartbeat: seconds between a running trial's signs of life.
        grace: seconds without one after which another worker takes a trial for dead and tries its point again.

    Raises:
        InputError: no such storage, a missing driver, a server that does not answer.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(logging.WARNING)
    parts = urlsplit(url)
    shown = without_credentials(url)
    if parts.scheme == "grpc":
        if parts.hostname is None:
            raise InputError(f"--storage {shown}: write grpc://HOST:PORT")
        return optuna.storages.GrpcStorageProxy(host=parts.hostname, port=parts.port or 13000)
    if not parts.scheme or "://" not in url:
        raise InputError(
            f"--storage {shown}: write a URL: {DEFAULT_STORAGE}, postgresql://USER@HOST/NAME, grpc://HOST:PORT"
        )
    sqlite = parts.scheme.startswith("sqlite")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}} if sqlite else {"pool_pre_ping": True},
                heartbeat_interval=heartbeat,
                grace_period=grace,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=2),
            )
        except (ImportError, ModuleNotFoundError) as error:
            driver = next((package for name, package in DRIVERS.items() if parts.scheme.startswith(name)), "its driver")
            raise InputError(f"--storage {shown}: its driver is not installed: pip install {driver}") from error
        except (SQLAlchemyError, ValueError, OSError) as error:
            # Workers that start together create the tables together: all but one find them half made, and look again.
            if attempt < ATTEMPTS and _is_race(error):
                time.sleep(0.2 * attempt)
                continue
            reason = " ".join(str(getattr(error, "orig", None) or error).split())[:200]
            raise InputError(f"--storage {shown}: cannot be opened: {reason}") from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _is_race(error: Exception) -> bool:
    text = str(error).lower()
    return "already exists" in text or "locked" in text or "duplicate key" in text
