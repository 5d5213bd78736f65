"""A study in MLflow: one parent run, under which its trials are nested."""

import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from flowbench.tracking.content import read_object, text

__all__ = ["parent_of", "trial_status", "trial_tags"]

STUDY_TAG = "flowbench.study_uid"
_UID = re.compile(r"[0-9a-f]{32}")


def trial_tags(folder: Path) -> dict[str, str]:
    """Return what a run is known by as a trial: study, number, state, why it was pruned or failed; empty for others."""
    trial = _trial(folder)
    if trial is None:
        return {}
    known = {name: trial.get(name) for name in ("study", "number", "state", "reason")}
    return {f"flowbench.trial_{name}": text(value, 5000) for name, value in known.items() if value is not None}


def trial_status(folder: Path) -> str | None:
    """Return the status that MLflow gives a run without a result; None: the run is no trial that failed."""
    trial = _trial(folder)
    return "FAILED" if trial is not None and trial.get("state") == "failed" else None


def parent_of(folder: Path, client: Any, experiment_id: str) -> dict[str, str]:
    """Return the tag that nests a trial under its study's run, which is made by the first; empty for other runs."""
    trial = _trial(folder)
    if trial is None:
        return {}
    uid = trial["study_uid"]
    runs = _parents(client, experiment_id, uid)
    if not runs:
        # The time and the name make no difference to who wins: mirrors that make one together agree on the first id.
        made = client.create_run(experiment_id, tags={STUDY_TAG: uid}, run_name=text(trial.get("study", "study"), 250))
        with redirect_stdout(sys.stderr):
            client.set_terminated(made.info.run_id, "FINISHED")
        runs = _parents(client, experiment_id, uid)
        if runs[0] != made.info.run_id:
            client.delete_run(made.info.run_id)
    return {"mlflow.parentRunId": runs[0]}


def _parents(client: Any, experiment_id: str, uid: str) -> list[str]:
    found = client.search_runs([experiment_id], f"tags.`{STUDY_TAG}` = '{uid}'", max_results=10)
    return sorted(run.info.run_id for run in found)


def _trial(folder: Path) -> dict[str, Any] | None:
    trial = read_object(folder / "trial.json")
    # The uid goes into a query of the server: nothing but our own form is let through.
    return trial if trial is not None and _UID.fullmatch(str(trial.get("study_uid"))) else None
