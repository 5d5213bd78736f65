"""A table as a picture of its page: every figure as a point with its error bars, those of others as marks, sorted.

Drawn by the page itself, of plain boxes at percentages of a line: sharp at every width, in light and dark, and small.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from flowbench.evaluation.error_bars import ErrorBar
from flowbench.report.formats import unit
from flowbench.tables.results import OTHER_IMAGES, OTHER_TASK

__all__ = ["Forest", "Point", "forests"]

LEVEL = 0.95
MARGIN = 0.04
"""Of a line's width, left free on both sides."""


@dataclass(frozen=True)
class Point:
    """One line of a picture; places are percentages of its width."""

    name: str
    text: str
    """The figure, as people read it; ≤ before an upper bound."""
    place: float
    images: tuple[float, float] | None = None
    """Beginning and width of the 95 % interval over images or windows."""
    seeds: tuple[float, float] | None = None
    """Beginning and width of the range of the seeds' figures."""
    theirs: str = ""
    """What a figure that is not of ours is: `published`, or `measured here`; empty for ours."""
    anchor: str | None = None


@dataclass(frozen=True)
class Forest:
    """The picture of one row of a table."""

    title: str
    metric: str
    points: Sequence[Point]
    ends: tuple[str, str]
    """The values at both ends of the lines."""


_ALONE = frozenset({"limited", OTHER_IMAGES, OTHER_TASK})
"""Badges of figures that no published one is compared with."""


def forests(rows: Sequence[tuple[Mapping[str, Any], str | None]]) -> list[Forest]:
    """Return a picture for each row of a table, best figures first; rows without any figure of ours have none.

    Args:
        rows: the entries of a results.json, in its order, each with the anchor of its card on the page.
    """
    found = []
    for (title, split, metric), group in groupby(rows, lambda one: (one[0]["row"], one[0]["split"], one[0]["metric"])):
        lines = [(row, anchor) for row, anchor in group if row["status"] == "done" and _finite(row["value"])]
        if any(row["published"] or row.get("peers") for row, _ in lines):
            # As in the table: what is measured otherwise is compared with nothing of others.
            lines = [(row, anchor) for row, anchor in lines if not _ALONE & set(row["badges"])]
        if lines:
            found.append(_forest(f"{title}, {split}", metric, lines))
    return found


def _forest(title: str, metric: str, lines: Sequence[tuple[Mapping[str, Any], str | None]]) -> Forest:
    first = lines[0][0]
    theirs = {one["model"]: one for one in first["published"] if one["split"] == first["split"]}
    measured = [peer for peer in first.get("peers", ()) if peer["split"] == first["split"]]
    spans = [_span(row) for row, _ in lines]
    values = [
        *(one["value"] for one in theirs.values()),
        *(value for peer in measured for value in peer["values"]),
        *(value for span in spans for pair in span if pair for value in pair),
    ]
    values += [row["value"] for row, _ in lines]
    low, high = min(values), max(values)
    margin = MARGIN * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return float(round(100 * (value - low) / (high - low), 2))

    def part(pair: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if pair is None else (place(pair[0]), round(place(pair[1]) - place(pair[0]), 2))

    points = [
        (
            row["value"],
            Point(
                row["experiment"] + "".join(f" ({badge})" for badge in row["badges"] if badge in _ALONE | {"stale"}),
                _figure(row["value"], row.get("labels", {}).get("bound") not in (None, "exact")),
                place(row["value"]),
                part(images),
                part(seeds),
                anchor=anchor,
            ),
        )
        for (row, anchor), (images, seeds) in zip(lines, spans, strict=True)
    ]
    for peer in measured:
        value = fmean(peer["values"])
        seeds = (min(peer["values"]), max(peer["values"])) if len(peer["values"]) > 1 else None
        point = Point(peer["model"], _figure(value, False), place(value), seeds=part(seeds), theirs="measured here")
        points.append((value, point))
    points += [
        (value := one["value"], Point(model, _figure(value, one["bound"] == "<"), place(value), theirs="published"))
        for model, one in theirs.items()
    ]
    ordered = [point for _, point in sorted(points, key=lambda one: one[0])]
    return Forest(title, unit(metric), ordered, (f"{low:.2f}", f"{high:.2f}"))


def _figure(value: float, bound: bool) -> str:
    return f"≤ {value:.3f}" if bound else f"{value:.3f}"


def _span(row: Mapping[str, Any]) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Return the interval over images and the range over seeds, each as its two ends."""
    value, error, each = row["value"], row["stderr"], row.get("values") or []
    images = None
    if error:
        half = ErrorBar(error, (row["n"] or math.inf) - 1).half_width(LEVEL)
        images = (value - half, value + half)
    return images, (min(each), max(each)) if len(each) > 1 else None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
