"""`mlflow.json` in a run folder: which MLflow run is the folder's copy, and how far it goes."""

import json
import re
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from flowbench.system import atomic

__all__ = [
    "MirrorState",
    "new_uid",
    "read_mlflow_run_id",
    "read_state",
    "recorded_bytes",
    "write_state",
]

_UID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class MirrorState:
    """The content of `mlflow.json`.

    The uid is a tag of the MLflow run: the server is asked for it, so that a run folder has one copy on each server.
    """

    uid: str
    tracking_uri: str
    """Without user name and password: run folders are passed on."""
    run_id: str
    covered_bytes: int
    """What the folder had recorded (`recorded_bytes`) when all of it was last brought into MLflow; 0: never."""


def read_state(folder: Path) -> MirrorState | None:
    """Return the folder's state; None where there is none or it is not readable (the server is asked instead)."""
    try:
        content = json.loads((folder / "mlflow.json").read_text(encoding="utf-8"))
        state = MirrorState(**content)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (state.uid, state.tracking_uri, state.run_id)
    # The uid goes into a query of the server: nothing but our own form is let through.
    if not all(isinstance(text, str) for text in texts) or not _UID.fullmatch(state.uid):
        return None
    return state


def write_state(folder: Path, state: MirrorState) -> None:
    """Write `mlflow.json` atomically, unless it says that already."""
    if state != read_state(folder):
        atomic.write_json(folder / "mlflow.json", asdict(state))


def read_mlflow_run_id(run_folder: Path) -> str | None:
    """Return the id of the folder's MLflow run; None as long as there is none."""
    state = read_state(run_folder)
    return None if state is None else state.run_id


def recorded_bytes(folder: Path) -> int:
    """Return the size of what a run, or a table, has recorded: a copy that covers as much is complete."""
    paths = (folder / "metrics.jsonl", folder / "result.json", folder / "results.json")
    return sum(path.stat().st_size for path in paths if path.exists())


def new_uid() -> str:
    """Return a random uid."""
    return uuid.uuid4().hex
