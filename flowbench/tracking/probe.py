"""Whether MLflow takes runs: a run is made, filled and removed again, in a process that is given a limited time.

`python -m flowbench.tracking.probe` prints a JSON list: what was found, and the remedy or null.
"""

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from flowbench.errors import InputError
from flowbench.system.credentials import scrubbed, without_credentials
from flowbench.system.helpers import own_module
from flowbench.tracking.places import artifact_location, left_behind, local_folder, sqlite_path, tracking_uri
from flowbench.tracking.store import StoreError, explain, is_installed, open_client, patience

__all__ = ["SECONDS", "look", "probe"]

SECONDS = 120.0
"""For everything: MLflow alone takes several to be imported."""
REQUEST_SECONDS = 10
EXPERIMENT = "flowbench-doctor"
"""Deleted after use: a server keeps it, hidden, until its administrator collects garbage."""
_LATER = "or run on: runs are kept, and `flowbench track import` sends them later"


def probe(seconds: float = SECONDS) -> tuple[str, str | None]:
    """Return in words what became of a run in MLflow's store, and what mends it; nothing visible is left there."""
    uri = tracking_uri()
    if uri is None:
        return "off (FLOWBENCH_TRACKING)", None
    shown = without_credentials(uri)
    if not is_installed():
        return f"{shown}: mlflow is not installed", "pip install mlflow"
    command, environment = own_module("flowbench.tracking.probe")
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"{shown}: no answer within {seconds:.0f} seconds", f"start it, {_LATER}"
    try:
        words, remedy = json.loads(output)
    except ValueError:
        last = (errors.strip().splitlines() or [f"ended with status {process.returncode}"])[-1]
        return f"{shown}: MLflow failed: {scrubbed(last)[:200]}", f"mend it, {_LATER}"
    return words, remedy


def look(uri: str) -> tuple[str, str | None]:
    """Return what `probe` does, from this process and in its own time."""
    shown = without_credentials(uri)
    database = sqlite_path(uri)
    try:
        if database is not None and not database.exists():
            _make_database_in(next(folder for folder in database.absolute().parents if folder.exists()))
            return f"{shown}: is not there yet, and can be written", None
        with patience(REQUEST_SECONDS, 0):
            client = open_client(uri)
            _run(client, uri)
            moved = _moved(client, uri)
    except StoreError as error:
        return error.what, error.remedy
    except InputError as error:
        return str(error), "mend it, or set MLFLOW_TRACKING_URI to another store"
    except (OSError, sqlite3.Error) as error:
        return f"{shown}: cannot be written ({explain(error)})", "set MLFLOW_TRACKING_URI to another place"
    except Exception as error:  # whatever MLflow and the libraries of its stores raise
        return f"{shown}: takes no run ({explain(error)})", f"{_way_out(error)}, {_LATER}"
    if moved is None or database is None:
        return f"{shown}: takes runs", None
    old, new = moved
    return f"{shown}: takes runs, but was moved: their files still go to {old}", _relocation(database, old, new)


def _make_database_in(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".flowbench-", dir=folder) as name:
        connection = sqlite3.connect(Path(name) / "mlflow.db")
        connection.execute("CREATE TABLE runs (run)")
        connection.commit()
        connection.close()


def _run(client: Any, uri: str) -> None:
    """Make a run as a training does, and remove it."""
    from mlflow.entities import Metric

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        identifier = client.create_experiment(EXPERIMENT, artifact_location(uri, EXPERIMENT))
    else:
        identifier = experiment.experiment_id
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(identifier)
    try:
        run = client.create_run(identifier)
        client.log_batch(run.info.run_id, metrics=[Metric("one", 1.0, 0, 0)], synchronous=True)
        if client.get_run(run.info.run_id).data.metrics != {"one": 1.0}:
            raise OSError("what was logged is not there")
        _write_file(run.info.artifact_uri)
    except BaseException:
        with suppress(Exception):
            _remove(client, identifier)
        raise
    _remove(client, identifier)


def _write_file(place: str) -> None:
    """Write a file to where a run's files go, and remove it."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    files: Any = get_artifact_repository(place)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "one.txt"
        path.write_text("one", encoding="utf-8")
        files.log_artifact(str(path))
    # Some stores cannot remove files: one of three letters in a deleted run is left there.
    with suppress(Exception):
        files.delete_artifacts()
    folder = local_folder(place)
    with suppress(OSError):
        # As far up as folders are empty: the run's, the experiment's, that of all.
        while folder is not None:
            folder.rmdir() if folder.exists() else None
            folder = folder.parent


def _remove(client: Any, identifier: str) -> None:
    """Delete the experiment with its runs; where the store is a database, for good."""
    store = client._tracking_client.store
    runs = client.search_runs([identifier])
    client.delete_experiment(identifier)
    if hasattr(store, "_hard_delete_run") and hasattr(store, "_hard_delete_experiment"):
        for run in runs:
            store._hard_delete_run(run.info.run_id)
        store._hard_delete_experiment(identifier)


def _moved(client: Any, uri: str) -> tuple[Path, Path] | None:
    if sqlite_path(uri) is None:
        return None
    experiments = client.search_experiments(max_results=1000)
    found = (left_behind(uri, one.name, one.artifact_location) for one in experiments)
    return next((pair for pair in found if pair is not None), None)


def _relocation(database: Path, old: Path, new: Path) -> str:
    changed = f"'{old.as_uri()}/mlruns/', '{new.as_uri()}/mlruns/')"
    statements = [
        f"UPDATE experiments SET artifact_location = replace(artifact_location, {changed}",
        f"UPDATE runs SET artifact_uri = replace(artifact_uri, {changed}",
    ]
    # A URI has neither "$" nor quotes.
    command = f'sqlite3 {shlex.quote(str(database))} "{"; ".join(statements)}"'
    return f"move it back, or keep a copy, bring over what lies in {old / 'mlruns'}, then: {command}"


def _way_out(error: Exception) -> str:
    status = getattr(error, "get_http_status_code", lambda: None)()
    if status in (401, 403):
        return "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    return "start it" if explain(error) in ("connection refused", "no answer in time") else "mend it"


if __name__ == "__main__":
    # MLflow prints as it likes: stdout is kept for what was found.
    with redirect_stdout(sys.stderr):
        answer = json.dumps(look(tracking_uri() or ""))
    print(answer)
