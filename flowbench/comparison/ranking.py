"""Who is better, honestly: repeated seeds are one entry, and a difference within the noise is a tie."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowbench.comparison.entries import Entry
from flowbench.config.metric_words import bound_of_all
from flowbench.evaluation.error_bars import ErrorBar

__all__ = ["Group", "Ranking", "pareto", "rank"]

LEVEL = 0.95


@dataclass(frozen=True)
class Group:
    """The finished runs of one config, over its seeds."""

    entries: Sequence[Entry]
    value: float
    """The mean over seeds."""
    deviation: float | None
    """The standard deviation (ddof 1) over seeds; None for one seed."""
    noise: float | None
    """The standard error of the value: see `Ranking.by`."""
    tie: bool | None
    """Whether its difference to the best is within the noise; None: the noise is not known."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that all have."""
        return self.entries[0].settings

    @property
    def name(self) -> str:
        """The first entry's, and how many there are."""
        more = f" and {len(self.entries) - 1} more" if len(self.entries) > 1 else ""
        return f"{self.entries[0].name}{more}"

    @property
    def bound(self) -> str | None:
        """What its figures are of the likelihood; see `Entry.bound`."""
        return bound_of_all(entry.bound for entry in self.entries)

    def cost(self, what: str) -> float | None:
        """Return the mean of `parameters`, `flops` or `speed` where it is known."""
        known = [value for entry in self.entries if (value := getattr(entry, what)) is not None]
        return statistics.fmean(known) if known else None


@dataclass(frozen=True)
class Ranking:
    """Groups, best first."""

    groups: Sequence[Group]
    by: str
    """What the noise is: in words, for the table's caption."""

    @property
    def ties(self) -> list[Group]:
        """The best one and all that are tied with it."""
        return [group for group in self.groups if group.tie]

    @property
    def recommended(self) -> Group:
        """The cheapest in parameters of those that are tied with the best."""

        def size(group: Group) -> float:
            parameters = group.cost("parameters")
            return math.inf if parameters is None else parameters

        return min(self.ties, key=lambda group: (size(group), group.value))


def rank(entries: Sequence[Entry]) -> Ranking:
    """Group finished entries by config and order them, lowest value first.

    The noise of a value is, where any config was repeated over seeds, the standard deviation over seeds, pooled over
    all that were repeated, with Student's t for its degrees of freedom. Otherwise it is the standard error over images,
    which takes the images of two runs for different ones and so calls too much a tie rather than too little.
    """
    by_config: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.value is not None:
            by_config.setdefault(json.dumps(entry.settings, sort_keys=True, default=str), []).append(entry)
    lists = list(by_config.values())
    values = [[entry.value for entry in one if entry.value is not None] for one in lists]
    freedom = sum(len(one) - 1 for one in values)
    if freedom:
        squares = sum(statistics.variance(one) * (len(one) - 1) for one in values if len(one) > 1)
        noises: list[float | None] = [math.sqrt(squares / freedom / len(one)) for one in values]
        repeated = sum(len(one) > 1 for one in values)
        by = (
            f"the standard deviation over seeds of {repeated} repeated config{'s' if repeated > 1 else ''}, pooled "
            f"({freedom} degree{'s' if freedom > 1 else ''} of freedom)"
        )
    else:
        errors = [[entry.stderr for entry in one if entry.stderr is not None] for one in lists]
        noises = [one[0] if one else None for one in errors]
        by = "the standard error over images (no config was repeated over seeds: how much they vary is not known)"
        if not any(noises):
            by = "not known: repeat configs over seeds (--seeds 0,1,2)"
    order = sorted(range(len(lists)), key=lambda place: statistics.fmean(values[place]))
    groups = []
    for place in order:
        best, value = statistics.fmean(values[order[0]]), statistics.fmean(values[place])
        mine, its = noises[place], noises[order[0]]
        known = mine is not None and its is not None
        tie = (
            True if place == order[0]
            else value - best <= ErrorBar(math.hypot(mine or 0.0, its or 0.0), freedom or math.inf).half_width(LEVEL)
            if known
            else None
        )  # fmt: skip
        deviation = statistics.stdev(values[place]) if len(values[place]) > 1 else None
        groups.append(Group(lists[place], value, deviation, mine, tie))
    return Ranking(groups, by)


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Say for each point, lower is better in both, whether no other is as good in both and better in one."""
    return [
        not any(x <= a and y <= b and (x, y) != (a, b) for x, y in points)
        for a, b in points
    ]  # fmt: skip
