"""The accuracy gate on stored results: bounds from seeds, either direction, and the file that keeps its comments."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from flowbench.config.experiments import shipped_folder
from flowbench.errors import InputError
from flowbench.reproduction.reproduce import reproduce
from flowbench.tables.bounds import measured_bounds, outside, ungated, write_bounds
from flowbench.tables.table import load_table
from tests.faked_runs import FakeTrainer

FLOW, BASELINE = "real_nvp/digits", "independent/digits"
VALUES = {(FLOW, seed): value for seed, value in enumerate((1.95, 1.96, 1.94))}
TABLE = """\
# A comment that stays.
table: mine
title: Mine
description: >-
  Two lines
  of words.
rows:
  - row: digits
    dataset: digits
    metric: bits_per_dim
    split: test
    experiments: [independent/digits, real_nvp/digits] # and one here
    note: "quoted: so"
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TABLE)
    return path


def run(table: Path, out: Path, values: dict[Any, Any], **options: Any) -> dict[str, Any]:
    return reproduce(str(table), out=out, trainer=FakeTrainer(values), **options)


@pytest.fixture
def bounded(table: Path, tmp_path: Path) -> Path:
    run(table, tmp_path / "seeds", VALUES, seeds=[0, 1, 2])
    write_bounds(tmp_path / "seeds", str(table))
    return table


def test_bounds_are_the_prediction_interval_of_one_more_seed() -> None:
    bounds = measured_bounds([1.95, 1.96, 1.94], [0, 1, 2], "0" * 12)
    assert bounds.value == pytest.approx(1.95)
    assert bounds.tolerance == pytest.approx(scipy.stats.t.ppf(0.995, 2) * 0.01 * (4 / 3) ** 0.5, rel=1e-5)
    same = measured_bounds([2.0, 2.0, 2.0], [0, 1, 2], "0" * 12)
    assert same.tolerance == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.955, None), (2.3, "above 1.9500 ± 0.1146 (seeds 0, 1, 2): the model has become worse"), (1.6, "too good")],
)
def test_a_figure_outside_is_one_line_in_either_direction(
    bounded: Path, tmp_path: Path, value: float, words: str | None
) -> None:
    results = run(bounded, tmp_path / "out", {(FLOW, 0): value})
    lines = outside(load_table(str(bounded)), results)
    assert len(lines) == (words is not None)
    assert all(words in line and "real_nvp/digits: test bits_per_dim" in line for line in lines)


def test_another_config_than_the_bounds_is_outside(bounded: Path, tmp_path: Path) -> None:
    results = run(bounded, tmp_path / "out", {(FLOW, 0): 1.95}, overrides=["train.log_every=7"])
    lines = outside(load_table(str(bounded)), results)
    assert len(lines) == 2
    assert all("measured on another config" in line for line in lines)


def test_comments_and_the_rest_of_the_file_stay_and_bounds_are_renewed(bounded: Path, tmp_path: Path) -> None:
    text = bounded.read_text()
    assert text.startswith("# A comment that stays.\n")
    assert 'note: "quoted: so"' in text
    assert "      - name: independent/digits\n        bounds:\n          value: 2.0\n" in text
    once = load_table(str(bounded))
    run(bounded, tmp_path / "again", {key: value - 1 for key, value in VALUES.items()}, seeds=[0, 1, 2])
    write_bounds(tmp_path / "again", str(bounded))
    twice = load_table(str(bounded))
    assert once.rows[0].experiments[1].bounds is not None
    assert twice.rows[0].experiments[1].bounds is not None
    assert twice.rows[0].experiments[1].bounds.value == pytest.approx(0.95)
    assert twice.description == "Two lines of words."
    assert len(bounded.read_text().splitlines()) == len(text.splitlines())


def test_what_is_not_gated_is_said(bounded: Path, tmp_path: Path) -> None:
    results = run(bounded, tmp_path / "out", {(FLOW, 0): InputError("no data")})
    assert outside(load_table(str(bounded)), results) == []
    assert ungated(load_table(str(bounded)), results) == [f"digits, {FLOW}: not gated: skipped: no data"]


def test_too_few_seeds_and_tables_without_bounds_are_refused(table: Path, tmp_path: Path) -> None:
    results = run(table, tmp_path / "out", VALUES, seeds=[0, 1])
    with pytest.raises(InputError, match="no row has figures of three seeds"):
        write_bounds(tmp_path / "out", str(table))
    with pytest.raises(InputError, match="no row of table mine has bounds"):
        outside(load_table(str(table)), results)
    with pytest.raises(InputError, match="no such file: flowbench reproduce"):
        write_bounds(tmp_path / "nowhere")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(InputError, match="not a results file of flowbench reproduce"):
        write_bounds(tmp_path / "other.json")
    assert table.read_text() == TABLE


def test_stale_results_give_no_bounds(table: Path, tmp_path: Path) -> None:
    results = run(table, tmp_path / "out", VALUES, seeds=[0, 1, 2])
    for row in results["rows"]:
        row["badges"].append("stale")
    (tmp_path / "out" / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match="no row has figures"):
        write_bounds(tmp_path / "out", str(table))


@pytest.mark.parametrize("name", ["quick", "real_nvp", "etth"])
def test_shipped_tables_survive_the_round_trip(name: str, tmp_path: Path) -> None:
    from flowbench.tables.bounds import _entered

    path = tmp_path / f"{name}.yaml"
    shutil.copy(shipped_folder() / "tables" / f"{name}.yaml", path)
    before = load_table(str(path))
    path.write_text(_entered(path.read_text(), {}))
    assert load_table(str(path)) == before
