"""A table in MLflow: its figures, its files, and the runs of its rows under it."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest

from flowbench.cli.tune import _dashboard
from flowbench.reproduction.reproduce import reproduce
from flowbench.tracking import import_run
from flowbench.tracking.state import read_state
from flowbench.tracking.store import open_client
from flowbench.tracking.tables import TableCopy, _metrics
from tests.faked_runs import FakeTrainer
from tests.tracking.tracked_runs import Holdings


def test_a_tables_run_holds_figures_and_files_and_is_the_parent_of_its_rows_runs(
    tmp_path: Path, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = reproduce("quick", only=["digits"], out=Path("results"), trainer=FakeTrainer({("glow/digits", 0): 1.75}))
    row = next(row for row in results["rows"] if row["experiment"] == "glow/digits")
    child = import_run(Path("results") / row["runs"][0])
    run_id = import_run(Path("results"))
    table = holdings.only("tables/quick")
    assert table.info.run_id == run_id == import_run(Path("results"))
    assert (table.info.status, table.info.run_name) == ("FINISHED", "results")
    assert table.data.metrics["digits/glow/digits"] == 1.75
    assert table.data.metrics["digits/glow/digits_stderr"] == 0.02
    assert table.data.tags["flowbench.rows"] == "4 of 6 done"
    files = {file.path for file in holdings.client.list_artifacts(run_id)}
    assert {"results.json", "table.md", "table.csv", "report.html"} <= files
    assert holdings.client.get_run(child).data.tags["mlflow.parentRunId"] == run_id
    assert "ETTh1 96/etth/nlinear" not in table.data.metrics


def test_a_copy_that_failed_is_finished_and_not_made_again(tmp_path: Path, holdings: Holdings, store: str) -> None:
    row = {"row": "digits", "experiment": "glow/digits", "value": 1.75, "status": "done"}
    (tmp_path / "results.json").write_text(json.dumps({"table": "broken", "rows": [row]}))
    client = open_client(store)
    with patch.object(client, "log_artifact", side_effect=ConnectionError("gone")):
        for _ in range(2):
            with pytest.raises(ConnectionError):
                TableCopy(tmp_path, client, store).finish()
    begun = holdings.only("tables/broken")
    state = read_state(tmp_path)
    assert state is not None
    assert (state.run_id, state.covered_bytes) == (begun.info.run_id, 0)
    assert import_run(tmp_path) == begun.info.run_id
    assert holdings.only("tables/broken").info.status == "FINISHED"


def test_a_studys_end_names_the_dashboard_without_a_password() -> None:
    assert _dashboard("sqlite:///my study.db").endswith(": optuna-dashboard 'sqlite:///my study.db'")
    assert "secret" not in _dashboard("postgresql://me:secret@db/studies")
    assert '"$OPTUNA_STORAGE"' in _dashboard("postgresql://me:secret@db/studies")


def test_an_experiment_that_stands_in_a_row_twice_has_two_figures() -> None:
    rows = [{"row": "ETTh2 96", "experiment": "etth/nlinear", "value": value} for value in (0.33, 0.34)]
    found = {metric.key: metric.value for metric in _metrics(rows, 0)}
    assert found == {"ETTh2 96/etth/nlinear": 0.33, "ETTh2 96/etth/nlinear-2": 0.34}
