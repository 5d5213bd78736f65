"""A study's trials in MLflow: nested under one run, with number, state and reason."""

import json
import os
import time
from pathlib import Path

from flowbench.tracking import import_run
from flowbench.tracking.pages import address_of_runs
from tests.tracking.tracked_runs import START, FakeRun, Holdings

UID = "0123456789abcdef" * 2


def trial(
    tmp_path: Path, number: int, state: str, reason: str | None = None, uid: str = UID, value: float | None = None
) -> FakeRun:
    run = FakeRun(tmp_path / f"trial-{number:04d}", f"real_nvp/{tmp_path.name}", seed=number)
    run.rows(1, 2)
    content = {"study": "a", "study_uid": uid, "number": number, "state": state, "reason": reason}
    content |= {"objectives": {"bits_per_dim": "minimize"}, "values": None if value is None else [value]}
    content["chosen"] = {"optim.lr": number / 100}
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


def test_the_parent_has_the_best_and_every_trial_its_figure_and_real_duration(
    tmp_path: Path, holdings: Holdings
) -> None:
    began, runs = time.time() - 5000, []
    for number, (state, value) in enumerate([("complete", 2.5), ("complete", 1.9), ("pruned", None)]):
        run = trial(tmp_path, number, state, value=value, uid=UID[::-1])
        (run.folder / "metrics.jsonl").unlink()
        run.rows(1, 60, began=began + 600 * number)
        run.rows(100, 100, began=began + 600 * number, **{"validation/bits_per_dim": 3.25})
        if state == "complete":
            run.finish(100)
        for file in run.folder.iterdir():  # as if it had been written then
            after = 0 if file.name == "config.yaml" else 120
            os.utime(file, (began + 600 * number + after,) * 2)
        runs.append(run)
    found = [holdings.client.get_run(import_run(run.folder)) for run in runs]
    assert [run.data.metrics["objective/bits_per_dim"] for run in found] == [2.5, 1.9, 3.25]
    assert [round((run.info.end_time - run.info.start_time) / 1000) for run in found] == [120, 120, 120]
    parent = holdings.client.get_run(found[0].data.tags["mlflow.parentRunId"])
    assert parent.data.metrics["objective/bits_per_dim"] == 1.9
    assert parent.data.tags["flowbench.best_trial"] == "1"
    assert parent.data.tags["flowbench.best.optim.lr"] == "0.01"
    assert parent.data.tags["flowbench.trials"] == "2 complete, 1 pruned"
    assert round((parent.info.end_time - parent.info.start_time) / 1000) == 1320
    _, page = address_of_runs(holdings.client)
    assert page.endswith("/runs?viewStateShareKey=flowbench")
    experiment = holdings.client.get_experiment_by_name(runs[0].experiment)
    view = json.loads(experiment.tags["mlflow.sharedViewState.flowbench"])
    assert view["selectedColumns"][:2] == ["metrics.`objective/bits_per_dim`", "attributes.`Duration`"]
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`objective/bits_per_dim`", True)


def test_a_copied_folder_keeps_its_times(tmp_path: Path, holdings: Holdings) -> None:
    run = trial(tmp_path, 0, "pruned", uid="f" * 32)
    info = holdings.client.get_run(import_run(run.folder)).info
    assert (info.start_time, info.end_time) == (int((START + 1) * 1000), int((START + 2) * 1000))
