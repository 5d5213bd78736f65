"""A study's trials in MLflow: nested under one run, with number, state and reason."""

import json
from pathlib import Path

from flowbench.tracking import import_run
from tests.tracking.tracked_runs import FakeRun, Holdings

UID = "0123456789abcdef" * 2


def trial(tmp_path: Path, number: int, state: str, reason: str | None = None, uid: str = UID) -> FakeRun:
    run = FakeRun(tmp_path / f"trial-{number:04d}", f"real_nvp/{tmp_path.name}", seed=number)
    run.rows(1, 2)
    content = {"study": "a", "study_uid": uid, "number": number, "state": state, "reason": reason}
    (run.folder / "trial.json").write_text(json.dumps(content))
    return run


def test_trials_are_nested_under_one_run_with_number_state_and_reason(tmp_path: Path, holdings: Holdings) -> None:
    complete, pruned = trial(tmp_path, 0, "complete"), trial(tmp_path, 1, "pruned", "bits_per_dim 4.0 at step 2")
    failed = trial(tmp_path, 2, "failed", "diverged")
    complete.finish(2)
    ids = [import_run(run.folder) for run in (complete, pruned, failed)]
    runs = [holdings.client.get_run(run_id) for run_id in ids]
    parents = {run.data.tags["mlflow.parentRunId"] for run in runs}
    assert len(parents) == 1
    parent = holdings.client.get_run(parents.pop())
    assert parent.info.run_name == "a"
    assert [run.info.status for run in (parent, *runs)] == ["FINISHED", "FINISHED", "KILLED", "FAILED"]
    assert [run.data.tags["flowbench.trial_number"] for run in runs] == ["0", "1", "2"]
    assert [run.data.tags.get("flowbench.trial_reason") for run in runs] == [
        None, "bits_per_dim 4.0 at step 2", "diverged"
    ]  # fmt: skip
    assert import_run(pruned.folder) == ids[1]
    assert len(holdings.runs(complete.experiment)) == 4


def test_a_hostile_uid_is_no_query(tmp_path: Path, holdings: Holdings) -> None:
    run = trial(tmp_path, 0, "failed", uid="' or '1'='1")
    tags = holdings.client.get_run(import_run(run.folder)).data.tags
    assert "mlflow.parentRunId" not in tags
    assert "flowbench.trial_number" not in tags
