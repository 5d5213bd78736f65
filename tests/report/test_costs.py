"""The sheet and the picture of what figures cost, on a toy table."""

from pathlib import Path
from typing import Any

import pytest

from flowbench import report
from flowbench.report.costs import ABOVE_MARK, cost_plots, cost_sheet, sample_costs
from flowbench.report.section import Place
from flowbench.reproduction.reproduce import reproduce
from tests.faked_runs import FakeTrainer
from tests.report.test_report import results, row

TOY = """
table: toy
title: Toy
description: Two models and what they cost.
costs: true
rows:
  - row: digits
    dataset: digits
    metric: bits_per_dim
    split: test
    experiments: [independent/digits, real_nvp/digits]
"""


def costs(flops: float, samples: float, passes: tuple[str, ...] = ("train", "forward", "inverse")) -> dict[str, Any]:
    speed = {"median": samples, "low": samples, "high": samples, "samples": [samples]}
    one = {"flops_per_image": flops, "images_per_second": speed}
    found = {"schema": 1, "batch": 64, "environment": {"device_name": "A test's processor"}}
    return {**found, "passes": dict.fromkeys(passes, one)}


def costly(
    flops: float, samples: float, bound: str, passes: tuple[str, ...] = ("train", "forward", "inverse"), **changes: Any
) -> dict[str, Any]:
    size = {"parameters": 1234567, "train_processor_seconds": 601.2}
    return row(
        costs={**costs(flops, samples, passes), **size},
        labels={"bound": bound},
        published=[],
        reproduces=None,
        **changes,
    )


def test_a_sheet_shows_size_operations_speeds_and_what_each_figure_is() -> None:
    sheet = cost_sheet(results(costly(2.5e6, 250.0, "exact"), costly(5e9, 1e4, "uniform", experiment="b"), row()), "t")
    assert sheet is not None
    assert sheet.name == "t"
    texts = [[cell.text for cell in line] for line in sheet.rows]
    assert texts[0] == [
        "CIFAR-10", "real_nvp/cifar10", "3.610 ± 0.010", "exact", "1,234,567", "601", *["2.5"] * 3, *["250"] * 3,
    ]  # fmt: skip
    assert texts[1][3:5] == ["uniform", "1,234,567"]
    assert len(texts) == 2
    assert "A test's processor" in sheet.caption


def test_a_model_that_is_not_trained_has_dashes_for_its_training() -> None:
    untrained = costs(1e6, 10.0, ("forward", "inverse")) | {"parameters": 0, "train_processor_seconds": None}
    sheet = cost_sheet(results(row(costs=untrained, labels={"bound": "exact"})), "t")
    assert sheet is not None
    assert [cell.text for cell in sheet.rows[0]][4:] == ["0", "–", "–", "1.0", "1.0", "–", "10.0", "10.0"]


def test_the_picture_tells_bounds_from_exact_values_and_leaves_what_is_far_above_at_its_edge() -> None:
    rows = [
        costly(1, 250.0, "exact"),
        costly(1, 4.0, "elbo", experiment="b", model="iafvae", value=3.5),
        costly(1, 4.0, "uniform", experiment="c", value=30.0),
        costly(1, 4.0, "exact", row="digits"),
    ]
    figure = sample_costs(rows)
    panel, other = figure.axes
    assert (panel.get_title(), other.get_title()) == ("CIFAR-10", "digits")
    marks: Any = [next(iter(container)) for container in panel.containers]
    assert [mark.get_marker() for mark in marks] == ["v", "o", ABOVE_MARK]
    assert [float(mark.get_xdata()[0]) for mark in marks] == [250.0, 4.0, 250.0]
    assert [float(mark.get_ydata()[0]) for mark in marks] == [3.5, 3.61, 3.61]
    assert [mark.get_markerfacecolor() == "none" for mark in marks] == [False, False, True]
    legend = panel.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["3.500  b", "3.610  real_nvp/cifar10", "30.000  c"]


def test_without_costs_there_is_neither() -> None:
    assert cost_sheet(results(row()), "t") is None


def test_a_table_that_wants_costs_measures_each_once_and_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, measured = tmp_path / "toy.yaml", []

    def counted(experiment: Any, _device: Any) -> dict[str, Any]:
        measured.append(experiment.name)
        return costs(1e6, 20.0)

    monkeypatch.setattr("flowbench.throughput.cost.measure_costs", counted)
    table.write_text(TOY)
    trainer = FakeTrainer()
    for _ in range(2):
        content = reproduce(str(table), out=tmp_path / "out", trainer=trainer)
        assert [one["costs"]["parameters"] for one in content["rows"]] == [12345, 12345]
        assert measured == ["independent/digits", "real_nvp/digits"]
    assert (tmp_path / "out" / "table-costs.csv").read_text().count("\n") == 3
    assert (tmp_path / "out" / "plots" / "toy-sample-cost.svg").is_file()
    text = (tmp_path / "out" / "report.html").read_text()
    assert "real_nvp/digits: 2.000 (uniform) at 50 ms a sample" in text
    assert report.build(content, base=tmp_path / "out", out=tmp_path / "out").is_file()

    # What is kept of it knows its costs: nothing is measured anew, and it can be kept again.
    kept = tmp_path / "kept"
    report.keep([str(tmp_path / "out")], kept)
    again = reproduce(str(table), out=kept, trainer=trainer)
    assert [one["costs"] for one in again["rows"]] == [one["costs"] for one in content["rows"]]
    assert measured == ["independent/digits", "real_nvp/digits"]
    assert report.keep([str(tmp_path / "out")], kept) == [kept / "results.json"]


def test_a_model_without_samples_stands_in_the_sheet_and_not_in_the_picture(tmp_path: Path) -> None:
    silent = costly(1, 250.0, "exact", passes=("train", "forward"))
    sheet = cost_sheet(results(silent), "t")
    assert sheet is not None
    assert [cell.text for cell in sheet.rows[0]][-1] == "–"
    assert cost_plots(results(silent), Place(tmp_path), "t") == []
