"""Rows with the settings of their shipped table are nobody's own."""

import json
from pathlib import Path

from flowbench.reproduction.reproduce import reproduce
from flowbench.tables.shipped import rows_as_shipped
from tests.faked_runs import FakeTrainer

REPORTS = Path(__file__).parents[2] / "reports"


def test_the_stored_quick_tables_rows_are_all_quick() -> None:
    content = json.loads((REPORTS / "quick" / "results.json").read_text())
    content["rows"][-1] |= {"badges": ["custom"], "budget": "custom"}  # as it was stored before there were presets
    shown = rows_as_shipped(content)
    assert [(row["badges"], row["budget"]) for row in shown] == [(["quick"], "quick")] * 6
    assert [row["value"] for row in shown] == [row["value"] for row in content["rows"]]


def test_a_run_tables_forecasts_are_quick_unless_a_setting_is_ones_own(tmp_path: Path, data_folder: Path) -> None:
    def badges(out: str, *overrides: str) -> list[str]:
        trainer = FakeTrainer(budget="custom")
        results = reproduce("quick", only=["etth1"], out=tmp_path / out, trainer=trainer, overrides=overrides)
        return next(row["badges"] for row in results["rows"] if row["experiment"] == "etth/nlinear")

    assert badges("plain") == ["quick"]
    assert badges("plain") == ["quick"]  # read back from what is stored
    assert badges("changed", "train.log_every=7") == ["custom"]


def test_another_shipped_tables_rows_are_not_custom_and_foreign_tables_stay() -> None:
    content = json.loads((REPORTS / "etth" / "results.json").read_text())
    # As versions stored them that did not know it.
    content["rows"] = [{**row, "badges": ["custom"]} for row in content["rows"]]
    assert len(content["rows"]) > 100
    assert not [row for row in rows_as_shipped(content) if "custom" in row["badges"]]
    assert rows_as_shipped({**content, "table": "mine"}) == content["rows"]
