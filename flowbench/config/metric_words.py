"""How a metric of `result.json` is written for people: its value, or its values by column, and what it is of."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "BOUNDS",
    "MEAN_OVER_COLUMNS",
    "bound_of_all",
    "known_values",
    "remarks",
    "shares_in_words",
    "value_in_words",
]

MEAN_OVER_COLUMNS = "mean over columns"
NAMED = 8
"""Columns that a line names."""
BOUNDS: Mapping[str, str] = {
    "exact": "the likelihood itself",
    "uniform": "a bound: uniform dequantization",
    "density_branch": "a bound: some bins by their density",
    "elbo": "a bound: ELBO",
    "importance": "a bound: importance-weighted",
}
"""What the values of the label `bound` say of bits/dim."""


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
    if metric.get("density_branch_share"):
        said.append(f"a density instead of a bin for {100 * metric['density_branch_share']:.1g} % of the values")
    return said


def bound_of_all(bounds: Iterable[str | None]) -> str | None:
    """Return what several figures together are of the likelihood: a bound where one of them is; None: unknown."""
    known = [bound for bound in dict.fromkeys(bounds) if bound is not None]
    return " and ".join(bound for bound in known if bound != "exact") or (known[0] if known else None)


def shares_in_words(shares: Mapping[str, float]) -> str:
    """Return `56 % of HULL, 30 % of LULL`, the largest first."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return _some([f"{'under 1' if share < 0.005 else f'{100 * share:.0f}'} % of {name}" for name, share in ordered])


def _some(words: Sequence[str]) -> str:
    more = len(words) - NAMED
    return ", ".join([*words[:NAMED], *([f"{more} more columns"] if more > 0 else [])])
