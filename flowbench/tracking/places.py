"""Where the copies of runs go: the store's address, and the folder of its files."""

import os
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

__all__ = ["artifact_location", "left_behind", "local_folder", "sqlite_path", "tracking_uri"]

_DATABASE = "mlflow.db"


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


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite store; None for every other one."""
    if not uri.startswith("sqlite:///"):
        return None
    from sqlalchemy.engine import make_url

    # As the library reads it: from its version 2.1 on, "%20" is a space.
    path = make_url(uri).database
    return Path(path) if path and path != ":memory:" else None


def artifact_location(uri: str, experiment: str) -> str | None:
    """Return where an experiment's files go: beside an SQLite store; None: the server decides."""
    folder = _files_of(uri, experiment)
    return None if folder is None else folder.as_uri()


def left_behind(uri: str, experiment: str, recorded: str) -> tuple[Path, Path] | None:
    """Return the folder in which an SQLite store was made and the one in which it lies; None: it was not moved.

    MLflow records whole paths: after a move it goes on writing files to the old place.

    Args:
        uri: the store's.
        experiment: the experiment's name.
        recorded: where the store says that the experiment's files lie.
    """
    here = _files_of(uri, experiment)
    there = local_folder(recorded)
    if here is None or there is None:
        return None
    depth = len(_parts(experiment))
    # Any other place was somebody's choice.
    if there.parts[-depth:] != here.parts[-depth:] or there.resolve() == here.resolve():
        return None
    return there.parents[depth - 1], here.parents[depth - 1]


def local_folder(location: str) -> Path | None:
    """Return the folder that a path or file: URI names; None for one elsewhere."""
    if location.startswith("file:"):
        return Path(url2pathname(urlsplit(location).path))
    return Path(location) if location.startswith("/") else None


def _files_of(uri: str, experiment: str) -> Path | None:
    database = sqlite_path(uri)
    return None if database is None else database.resolve().parent.joinpath(*_parts(experiment))


def _parts(experiment: str) -> list[str]:
    return ["mlruns", *(part for part in experiment.split("/") if part not in ("", ".", ".."))]
