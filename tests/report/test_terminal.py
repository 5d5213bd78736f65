"""A table on terminals of several widths."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flowbench.report.terminal import on_terminal
from tests.report.test_report import results, row

REPORTS = Path(__file__).parents[2] / "reports"


def shown(content: dict[str, Any], width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(on_terminal(content, width))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("table", ["quick", "etth", "cifar10"])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_broken(table: str, width: int) -> None:
    content = json.loads((REPORTS / table / "results.json").read_text())
    lines = shown(content, width)
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.replace("│", " ").split()}
    assert {one["experiment"] for one in content["rows"]} <= words
    assert {f"{one['value']:.3f}" for one in content["rows"] if one["value"] is not None} <= words


def test_a_narrow_terminal_has_published_figures_in_the_rows_title_and_labels_below() -> None:
    assert shown(results(row(), row(experiment="glow/cifar10", status="not_run", value=None)), 60) == [
        "Mine",
        "CIFAR-10, test, bits/dim: Real NVP 3.49 (3.40), Conv DRAW <",
        "  3.59",
        "  real_nvp/cifar10  3.610 ± 0.010  custom",
        "    levels 256, draws 1",
        "  glow/cifar10      –              not run",
    ]


def test_a_wide_one_has_a_column_for_each() -> None:
    lines = shown(results(row()), 140)
    assert [cell.strip() for cell in lines[1].split("┃")][-3:] == ["status", "Real NVP", "Conv DRAW"]
    assert "levels 256, draws 1" in lines[3]
