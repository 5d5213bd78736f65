"""Throughput figures in a terminal: a table where it fits, else pass by pass; no figure is ever cut."""

import io

import pytest
from rich.console import Console

from flowbench.throughput.comparison import compare, gate
from flowbench.throughput.formats import Figures, change_table, result_table, verdict_table
from tests.throughput.results import content, entry

NAME = "real_nvp/cifar10-small model.features=16"
SAMPLES = [1.70, 1.71, 1.69, 1.72, 1.68, 1.70]


def shown(figures: Figures, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(figures.on_terminal(width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_figure_is_cut_and_no_line_too_wide(width: int) -> None:
    files = content(entry(SAMPLES, experiment=NAME))
    changed = compare(files, files)
    judged = gate(files, files, max_slowdown=0.05, metric="floor_ratio")
    for figures, words in (
        (result_table(files["results"]), ["images/s", "floor ratio", "1.7 (1.68–1.72)", "MB"]),
        (change_table(changed), ["1.7 → 1.7", "1 (0.988–1.01)"]),
        (verdict_table(judged), ["slowdown", "1 (0.988–1.01)", "ok"]),
    ):
        lines = shown(figures, width)
        assert max(map(len, lines)) <= width
        for word in (NAME, *words):
            assert any(word in line for line in lines), (word, lines)
