"""How a metric of `result.json` is written for people: its value, or its values by column, and what it is over."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MEAN_OVER_COLUMNS", "known_values", "remarks", "shares_in_words", "value_in_words"]

MEAN_OVER_COLUMNS = "mean over columns"
NAMED = 8
"""Columns that a line names."""


def value_in_words(metric: Mapping[str, Any]) -> str:
    """Return `value ± standard error unit`; where there is no one value, those by column; a dash for neither."""
    if metric["value"] is not None:
        error = "" if metric.get("stderr") is None else f" ± {metric['stderr']:.4f}"
        return f"{metric['value']:.4f}{error}" + (f" {metric['unit']}" if metric.get("unit") else "")
    return _some([f"{name[1:]} {value:.4f}" for name, value in known_values("", metric).items()]) or "–"


def known_values(name: str, metric: Mapping[str, Any]) -> dict[str, float]:
    """Return a metric's value by its name; where it has none, those by column as `name/column`."""
    if metric.get("value") is not None:
        return {name: metric["value"]}
    columns = metric.get("per_column")
    values = columns if isinstance(columns, Mapping) else {}
    return {f"{name}/{column}": value for column, value in values.items() if value is not None}


def remarks(name: str, metric: Mapping[str, Any]) -> list[str]:
    """Return what a person must know of a figure beside its labels."""
    said = []
    if name.endswith("_original") and metric.get("value") is not None and "per_column" not in metric:
        # Stored before columns were told apart: the mean may be over different units.
        said.append(MEAN_OVER_COLUMNS)
    if metric.get("constant_share"):
        shares = shares_in_words(metric["constant_share"])
        said.append(f"over the windows without constant runs, in which lie {shares}")
    return said


def shares_in_words(shares: Mapping[str, float]) -> str:
    """Return `56 % of HULL, 30 % of LULL`, the largest first."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return _some([f"{'under 1' if share < 0.005 else f'{100 * share:.0f}'} % of {name}" for name, share in ordered])


def _some(words: Sequence[str]) -> str:
    more = len(words) - NAMED
    return ", ".join([*words[:NAMED], *([f"{more} more columns"] if more > 0 else [])])
