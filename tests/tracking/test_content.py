import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric

from flowbench.config.result_notes import UNDRAWN
from flowbench.tracking.content import (
    MetricsTail,
    RowsCutError,
    beside_curve,
    entity_name,
    final_values,
    has_ended,
    tags,
    text,
)

# A busy machine makes any timing of generated examples meaningless.
ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ROW = '{"step": %d, "time": 1790000000.5, "x": 1}\n'


@ANY_SPEED
@given(st.text(max_size=300))
def test_mlflow_takes_every_name(name: str) -> None:
    _validate_metric(entity_name(name), 1.0, 0, 0)
    assert len(entity_name(name)) <= 250


@ANY_SPEED
@given(st.lists(st.text(alphabet="ab/.\\ é<", max_size=6), min_size=2, max_size=20, unique=True))
def test_names_stay_apart(names: list[str]) -> None:
    assert len({entity_name(name) for name in names}) == len(names)


def test_good_names_stay_as_they_are() -> None:
    assert entity_name("train/bits_per_dim") == "train/bits_per_dim"


def test_text_is_cut_and_clean() -> None:
    assert text([1, "é"], 100) == '[1, "é"]'
    assert text("x" * 11, 10) == "x" * 9 + "…"
    assert text("a\ud800\0b", 10) == "a?b"


def test_only_whole_lines_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.read() == []
    path.write_text(ROW % 1 + (ROW % 2)[:10])
    assert [row.step for row in tail.read()] == [1]
    with path.open("a") as file:
        file.write((ROW % 2)[10:])
    assert tail.read() == [(2, 1790000000500, {"x": 1.0})]
    assert tail.read() == []


@pytest.mark.parametrize("how", ["shorter", "replaced", "gone"])
def test_a_cut_file_is_noticed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    path.write_text("".join(ROW % step for step in (1, 2)))
    tail.read()
    if how == "shorter":
        os.truncate(path, len(ROW % 1))
    elif how == "replaced":
        (tmp_path / "new").write_text("".join(ROW % step for step in (1, 2, 3)))
        (tmp_path / "new").replace(path)
    else:
        path.unlink()
    with pytest.raises(RowsCutError):
        tail.read()
    tail.rewind()
    assert [row.step for row in tail.read()] == {"shorter": [1], "replaced": [1, 2, 3], "gone": []}[how]


def test_errors_in_original_units_are_kept_by_column_and_stored_means_say_what_they_are(tmp_path: Path) -> None:
    by_column = {"value": None, "stderr": None, "n": 9, "unit": None, "per_column": {"sales": 12.0, "visitors": 0.5}}
    stored = {"value": 6.25, "stderr": None, "n": 9}
    for metric, values, tag in (
        (by_column, {"test/mae_original/sales": 12.0, "test/mae_original/visitors": 0.5}, None),
        ({**by_column, "value": 6.25, "unit": "kW"}, {"test/mae_original": 6.25}, "kW"),
        (stored, {"test/mae_original": 6.25}, "mean over columns"),
    ):
        result = {"metrics": {"test": {"mae_original": metric}}}
        assert final_values(result) == {**values, "test/mae_original_n": 9.0}
        (tmp_path / "result.json").write_text(json.dumps(result))
        assert tags(tmp_path, {}).get("flowbench.mae_original") == tag


def test_what_a_split_reports_is_no_point_of_its_curve(tmp_path: Path) -> None:
    rows = [{"step": 10, "time": 1.0, "validation/mae": 0.4}, {"step": 20, "time": 2.0, "validation/mae": 0.55}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"validation/mae": 0.4, "validation/mae_n": 100.0, "test/mae": 0.5, "train_seconds": 3.0}
    assert beside_curve(values, tmp_path) == {
        "final/validation/mae": 0.4, "final/validation/mae_n": 100.0, "test/mae": 0.5, "train_seconds": 3.0
    }  # fmt: skip
    assert beside_curve(values, tmp_path / "nothing") == values


def test_a_training_has_ended_with_its_pictures_or_by_its_failure(tmp_path: Path) -> None:
    assert not has_ended(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"notes": [UNDRAWN]}))
    assert not has_ended(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"notes": []}))
    assert has_ended(tmp_path)
    (tmp_path / "result.json").unlink()
    (tmp_path / "failure.json").write_text("{}")
    assert has_ended(tmp_path)
