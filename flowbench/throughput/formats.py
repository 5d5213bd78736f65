"""Throughput figures as people read them in a terminal."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbench.throughput.comparison import Change, Verdict, described
from flowbench.throughput.files import KEYS

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Figures", "change_table", "result_table", "verdict_table"]


@dataclass
class Figures:
    """Figures of passes, one pass a line."""

    columns: Sequence[str]
    passes: list[dict[str, Any]]
    """Each with what tells it apart (`files.KEYS`)."""
    cells: list[Sequence[str]]
    """Of each pass, as many as there are columns."""

    def on_terminal(self, width: int) -> "RenderableType":
        """Return them for a terminal of so many columns: as a table where it fits, else pass by pass, nothing cut."""
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        table = Table(show_edge=False)
        for name in KEYS:
            table.add_column(name, no_wrap=True)
        for name in self.columns:
            table.add_column(name, justify="right", no_wrap=True)
        lines = [[*_key(one), *cells] for one, cells in zip(self.passes, self.cells, strict=True)]
        for line in lines:
            table.add_row(*map(escape, line))
        natural = [max(map(len, column)) for column in zip((*KEYS, *self.columns), *lines, strict=True)]
        if sum(natural) + 3 * len(natural) <= width:
            return table
        return Group(*(Text(line) for line in self._pass_by_pass(width)))

    def _pass_by_pass(self, width: int) -> Iterable[str]:
        for one, cells in zip(self.passes, self.cells, strict=True):
            yield described(one)
            # No figure is torn from its name.
            figures = [f"{name} {cell}".replace(" ", "\0") for name, cell in zip(self.columns, cells, strict=True)]
            for line in textwrap.wrap(", ".join(figures), width - 2, break_long_words=False):
                yield "  " + line.replace("\0", " ")


def result_table(results: Iterable[dict[str, Any]]) -> Figures:
    """Return one line for each entry of a result file; intervals are 95 %."""
    table = Figures(("images/s", "floor ratio", "GFLOP/image", "GFLOP/s", "peak memory"), [], [])
    for result in results:
        speed = result["images_per_second"]["median"]
        memory = result["peak_memory_bytes"]
        table.passes.append(result)
        table.cells.append(
            (
                _figure(result["images_per_second"]),
                _figure(result["floor_ratio"]),
                f"{result['flops_per_image'] / 1e9:.3g}",
                _digits(result["flops_per_image"] * speed / 1e9),
                "–" if memory is None else f"{memory / 1e6:,.0f} MB",
            )
        )
    return table


def change_table(changes: Sequence[Change]) -> Figures:
    """Return one line for each entry of two files: medians of both, and second ÷ first with its interval."""
    table = Figures(("images/s", "second ÷ first", "floor ratio", "second ÷ first"), [], [])
    for change in changes:
        cells = []
        for name in ("images_per_second", "floor_ratio"):
            if name not in change.medians:
                cells += ["–", "–"]
                continue
            first, second = change.medians[name]
            cells += [f"{_digits(first)} → {_digits(second)}", _interval(*change.ratios[name])]
        table.passes.append(change.key)
        table.cells.append(cells)
    return table


def verdict_table(verdicts: Sequence[Verdict]) -> Figures:
    """Return one line for each pass that the gate judged."""
    table = Figures(("slowdown", "p", "verdict"), [], [])
    for one in verdicts:
        table.passes.append(one.key)
        table.cells.append(
            (_interval(one.slowdown, one.low, one.high), f"{one.p_value:.2g}", "slower" if one.failed else "ok")
        )
    return table


def _key(result: dict[str, Any]) -> list[str]:
    words = {True: "yes", False: "no"}
    return [words.get(result[key], "") if key == "compiled" else str(result[key]) for key in KEYS]


def _figure(figure: dict[str, Any] | None) -> str:
    return "–" if figure is None else _interval(figure["median"], figure["low"], figure["high"])


def _interval(median: float, low: float, high: float) -> str:
    return f"{_digits(median)} ({_digits(low)}–{_digits(high)})"


def _digits(value: float) -> str:
    """Return a figure with three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
