"""Two result files side by side, and the gate that fails when the second is clearly slower."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flowbench.errors import InputError
from flowbench.throughput.files import KEYS, key_of
from flowbench.throughput.statistics import ratio, slowdown_p_value

__all__ = [
    "CONFIDENCE",
    "Change",
    "Metric",
    "Verdict",
    "compare",
    "described",
    "elsewhere",
    "gate",
    "not_judged",
    "regression",
]

Metric = Literal["floor_ratio", "images_per_second"]
CONFIDENCE = 0.99
"""One-sided, for all passes of a gate together (Bonferroni)."""
MIN_SAMPLES = 5


@dataclass(frozen=True)
class Change:
    """One entry of two files: the second in units of the first."""

    key: dict[str, Any]
    medians: dict[str, tuple[float, float]]
    """(first, second) by metric."""
    ratios: dict[str, tuple[float, float, float]]
    """Second ÷ first by metric: ratio of the medians and its 95 % interval."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one pass."""

    key: dict[str, Any]
    slowdown: float
    """Time of the current pass over that of the baseline's; 1.1 is 10 % slower."""
    low: float
    high: float
    """95 % interval of `slowdown`."""
    p_value: float
    failed: bool


def compare(first: dict[str, Any], second: dict[str, Any]) -> list[Change]:
    """Return the entries that both result files have.

    Raises:
        InputError: there is none; other devices, or another model of the same name.
    """
    _refuse_other_device(second, first)
    pairs = _pairs(first, second)
    for one, two in pairs:
        _refuse_other_model(two, one)
    if not pairs:
        raise InputError("the two files have no pass in common (same experiment, pass, batch, precision, compiled)")
    return [
        Change(
            key={key: one[key] for key in KEYS},
            medians={name: (one[name]["median"], two[name]["median"]) for name in _metrics(one, two)},
            ratios={name: ratio(_samples(two, name), _samples(one, name)) for name in _metrics(one, two)},
        )
        for one, two in pairs
    ]


def gate(current: dict[str, Any], baseline: dict[str, Any], *, max_slowdown: float, metric: Metric) -> list[Verdict]:
    """Judge every pass of `current`: it fails if it is more than `max_slowdown` slower, and clearly so.

    Clearly: `slowdown_p_value` is below 1 % over the number of passes.

    Args:
        current: content of a result file.
        baseline: content of an earlier one.
        max_slowdown: 0.05 allows 5 %.
        metric: what is compared; images per second only between runs on one device with equal threads.

    Raises:
        InputError: a pass has no entry in the baseline, or another model has; too few samples; other machines.
    """
    _refuse_other_device(current, baseline)
    if metric == "images_per_second":
        _refuse_other_machine(current, baseline)
    old = {key_of(result): result for result in baseline["results"]}
    for result in current["results"]:
        if key_of(result) not in old:
            raise InputError(f"the baseline has no entry for {described(result)}: run it there too, or renew it")
        _refuse_other_model(result, old[key_of(result)])
    pairs = [(old[key_of(result)], result) for result in current["results"]]
    if not pairs:
        raise InputError("the current file has no results")
    return [_judge(before, now, metric, max_slowdown, (1 - CONFIDENCE) / len(pairs)) for before, now in pairs]


def not_judged(current: dict[str, Any], baseline: dict[str, Any]) -> str | None:
    """Return a line that names the baseline's passes that `current` has not timed; None if it has them all."""
    now = {key_of(result) for result in current["results"]}
    left_out = [described(result) for result in baseline["results"] if key_of(result) not in now]
    if not left_out:
        return None
    return f"not judged, since only the baseline has them: {'; '.join(left_out)}"


def regression(verdicts: list[Verdict], baseline: dict[str, Any], max_slowdown: float) -> str | None:
    """Return the gate's message: which passes, how much, since which commit; None if none failed."""
    failed = [verdict for verdict in verdicts if verdict.failed]
    if not failed:
        return None
    environment = baseline["environment"]
    since = environment.get("commit") or f"version {environment.get('flowbench')}"
    slower = "; ".join(
        f"{described(one.key)}: {one.slowdown - 1:.1%} slower ({one.low - 1:.1%} to {one.high - 1:.1%})"
        for one in failed
    )
    return f"slower than {since[:20]} by more than {max_slowdown:.0%}: {slower}"


def described(result: dict[str, Any]) -> str:
    """Return an entry's key in words: `real_nvp/cifar10 train, batch 16, precision 32`."""
    compiled = ", compiled" if result["compiled"] else ""
    return (
        f"{result['experiment']} {result['pass']}, batch {result['batch']}, precision {result['precision']}{compiled}"
    )


def _judge(
    before: dict[str, Any], now: dict[str, Any], metric: Metric, max_slowdown: float, significance: float
) -> Verdict:
    for result in (before, now):
        if result[metric] is None:
            raise InputError(f"{described(result)}: has no convolutions, so no floor_ratio: --metric images_per_second")
        if len(result[metric]["samples"]) < MIN_SAMPLES:
            raise InputError(
                f"{described(result)}: fewer than {MIN_SAMPLES} repetitions cannot be judged: --repeats 40"
            )
    old, new = _samples(before, metric), _samples(now, metric)
    if metric == "images_per_second":
        old, new = 1 / old, 1 / new
    slowdown, low, high = ratio(new, old)
    p_value = slowdown_p_value(new, old)
    failed = slowdown > 1 + max_slowdown and p_value < significance
    return Verdict({key: now[key] for key in KEYS}, slowdown, low, high, p_value, failed)


def _pairs(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    old = {key_of(result): result for result in first["results"]}
    return [(old[key_of(result)], result) for result in second["results"] if key_of(result) in old]


def _metrics(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    return [name for name in ("images_per_second", "floor_ratio") if one[name] is not None and two[name] is not None]


def _samples(result: dict[str, Any], metric: str) -> NDArray[np.float64]:
    return np.asarray(result[metric]["samples"], dtype=np.float64)


def _refuse_other_device(current: dict[str, Any], baseline: dict[str, Any]) -> None:
    now, before = (content["environment"].get("device") for content in (current, baseline))
    if now != before:
        raise InputError(
            f"the baseline was measured on {before}, this on {now}: no figure of one says anything of the other: "
            f"measure a baseline on {now}, too"
        )


def elsewhere(current: dict[str, Any], baseline: dict[str, Any]) -> str | None:
    """Return what must be said where a baseline is another machine's, or of other threads; None: it is not."""
    pairs = {key: [one["environment"].get(key) for one in (baseline, current)] for key in ("device_name", "threads")}
    others = [f"{key.replace('_', ' ')} {then}, now {now}" for key, (then, now) in pairs.items() if then != now]
    return f"the baseline was measured elsewhere: {'; '.join(others)}: a ratio moves little with it" if others else None


def _refuse_other_machine(current: dict[str, Any], baseline: dict[str, Any]) -> None:
    for key in ("device_name", "threads"):
        now, before = (content["environment"].get(key) for content in (current, baseline))
        if now != before:
            raise InputError(
                f"images_per_second cannot be compared: {key} is {now!r} here and {before!r} in the baseline: "
                "use --metric floor_ratio"
            )


def _refuse_other_model(now: dict[str, Any], before: dict[str, Any]) -> None:
    if now.get("parameters") != before.get("parameters"):
        raise InputError(
            f"{described(now)}: {now.get('parameters')} parameters here and {before.get('parameters')} in the "
            "baseline: two models of one name cannot be compared"
        )
