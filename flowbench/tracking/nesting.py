"""A study in MLflow: one parent run, under which its trials are nested."""

import re
import sys
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, RunTag

from flowbench.tracking.content import began, ended, finite, last_value, read_object, text
from flowbench.tracking.store import log_new

__all__ = ["parent_of", "tell_parent", "trial_status", "trial_tags", "trial_values"]

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


def trial_values(folder: Path) -> dict[str, float]:
    """Return what a trial was chosen by, `objective/<name>`: of one pruned or under way, its last validation."""
    trial = _trial(folder)
    if trial is None:
        return {}
    names, values = list(_objectives(trial)), trial.get("values")
    if isinstance(values, list) and len(values) == len(names):
        return finite({f"objective/{name}": value for name, value in zip(names, values, strict=True)})
    if len(names) != 1:
        return {}
    last = last_value(folder / "metrics.jsonl", f"validation/{names[0]}")
    return {} if last is None else {f"objective/{names[0]}": last}


def parent_of(folder: Path, client: Any, experiment_id: str) -> dict[str, str]:
    """Return the tag that nests a trial under its study's run, which is made by the first; empty for other runs."""
    trial = _trial(folder)
    if trial is None:
        return {}
    uid = trial["study_uid"]
    runs = _parents(client, experiment_id, uid)
    if not runs:
        # The time and the name make no difference to who wins: mirrors that make one together agree on the first id.
        begun = min(began(one) for one in _together(folder, uid))
        name = text(trial.get("study", "study"), 250)
        made = client.create_run(experiment_id, begun, tags={STUDY_TAG: uid}, run_name=name)
        with redirect_stdout(sys.stderr):
            client.set_terminated(made.info.run_id, "FINISHED", begun)
        runs = _parents(client, experiment_id, uid)
        if runs[0] != made.info.run_id:
            client.delete_run(made.info.run_id)
    return {"mlflow.parentRunId": runs[0]}


def tell_parent(folder: Path, client: Any, parent: str) -> None:
    """Give a study's run what its trials have found: the best one's figures and settings, how many ended how, the time.

    Everything is read from the trials' folders, which lie beside each other: whoever tells it last tells all.
    """
    trial = _trial(folder)
    if trial is None:
        return
    trials = {one: known for one in _together(folder, trial["study_uid"]) if (known := _trial(one)) is not None}
    states = Counter(str(known.get("state")) for known in trials.values())
    told = {"flowbench.trials": ", ".join(f"{number} {state}" for state, number in sorted(states.items()))}
    complete = [(one, known) for one, known in trials.items() if known.get("state") == "complete" and trial_values(one)]
    if complete:
        # With several objectives there is no best one but for the first.
        (name, direction), *_ = _objectives(trial).items()
        sign = -1.0 if direction == "maximize" else 1.0
        best, known = min(complete, key=lambda pair: sign * trial_values(pair[0])[f"objective/{name}"])
        told["flowbench.best_trial"] = text(known.get("number"), 50)
        told |= {f"flowbench.best.{key}": text(value, 500) for key, value in (known.get("chosen") or {}).items()}
        # At the trial's own time: whoever tells the same again adds nothing.
        moment = ended(best)
        metrics = [Metric(key, value, moment, len(complete)) for key, value in trial_values(best).items()]
        log_new(metrics, client, parent)
    client.log_batch(parent, tags=[RunTag(key, value) for key, value in told.items()], synchronous=True)
    with redirect_stdout(sys.stderr):
        client.set_terminated(parent, "FINISHED", max(ended(one) for one in trials))


def _together(folder: Path, uid: str) -> list[Path]:
    """Return the folders of a study's trials, which lie beside each other."""
    beside = sorted(folder.resolve().parent.glob("*/trial.json"))
    mine = [path.parent for path in beside if (_trial(path.parent) or {}).get("study_uid") == uid]
    return mine or [folder]


def _objectives(trial: dict[str, Any]) -> dict[str, str]:
    """Return names and directions; a trial from before they were written had one that is not known: none."""
    found = trial.get("objectives")
    return {str(name): str(way) for name, way in found.items()} if isinstance(found, dict) else {}


def _parents(client: Any, experiment_id: str, uid: str) -> list[str]:
    found = client.search_runs([experiment_id], f"tags.`{STUDY_TAG}` = '{uid}'", max_results=10)
    return sorted(run.info.run_id for run in found)


def _trial(folder: Path) -> dict[str, Any] | None:
    trial = read_object(folder / "trial.json")
    # The uid goes into a query of the server: nothing but our own form is let through.
    return trial if trial is not None and _UID.fullmatch(str(trial.get("study_uid"))) else None
