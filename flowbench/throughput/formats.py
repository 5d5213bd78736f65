"""Throughput figures as people read them in a terminal."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flowbench.throughput.comparison import Change, Verdict
from flowbench.throughput.files import KEYS

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["change_table", "result_table", "verdict_table"]


def result_table(results: Iterable[dict[str, Any]]) -> "Table":
    """Return one line for each entry of a result file; intervals are 95 %."""
    table = _table("images/s", "floor ratio", "GFLOP/image", "GFLOP/s", "peak memory")
    for result in results:
        speed = result["images_per_second"]["median"]
        memory = result["peak_memory_bytes"]
        table.add_row(
            *_key(result),
            _figure(result["images_per_second"]),
            _figure(result["floor_ratio"]),
            f"{result['flops_per_image'] / 1e9:.3g}",
            f"{result['flops_per_image'] * speed / 1e9:.3g}",
            "–" if memory is None else f"{memory / 1e6:,.0f} MB",
        )
    return table


def change_table(changes: Sequence[Change]) -> "Table":
    """Return one line for each entry of two files: medians of both, and second ÷ first with its interval."""
    table = _table("images/s", "ratio", "floor ratio", "ratio")
    for change in changes:
        cells = []
        for name in ("images_per_second", "floor_ratio"):
            if name not in change.medians:
                cells += ["–", "–"]
                continue
            first, second = change.medians[name]
            cells += [f"{first:.3g} → {second:.3g}", _interval(*change.ratios[name])]
        table.add_row(*_key(change.key), *cells)
    return table


def verdict_table(verdicts: Sequence[Verdict]) -> "Table":
    """Return one line for each pass that the gate judged."""
    table = _table("slowdown", "p", "verdict")
    for one in verdicts:
        cells = [_interval(one.slowdown, one.low, one.high), f"{one.p_value:.2g}", "slower" if one.failed else "ok"]
        table.add_row(*_key(one.key), *cells)
    return table


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(show_edge=False)
    for name in KEYS:
        table.add_column(name)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _key(result: dict[str, Any]) -> list[str]:
    words = {True: "yes", False: "no"}
    return [words.get(result[key], "") if key == "compiled" else str(result[key]) for key in KEYS]


def _figure(figure: dict[str, Any] | None) -> str:
    return "–" if figure is None else _interval(figure["median"], figure["low"], figure["high"])


def _interval(median: float, low: float, high: float) -> str:
    return f"{median:.3g} ({low:.3g}–{high:.3g})"
