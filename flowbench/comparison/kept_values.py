"""The values for each image or window that runs keep, whatever became of the runs: finished, pruned, stopped."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowbench.config.registry import image_sets
from flowbench.errors import InputError
from flowbench.runs.folder import RunFolder

__all__ = ["KEPT", "Kept", "common_split", "dataset_of", "on_the_same_items"]

_PER_WINDOW = ("mae", "mse")
"""What is stored of each window, by column, where the file beside it does not say it."""
KEPT = {"density": ("bits_per_dim",), "forecast": ("mae", "mse", "nll", "crps", "mae_median")}
"""Metrics that are kept for each item, by kind; lower is better."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What one evaluation of a run has kept."""

    figure: dict[str, Any]
    values: NDArray[np.float64]
    """Of each image or window in the split's order, (n,)."""
    dataset: str
    fingerprint: str
    """Of the data."""
    first: int | None
    """Row of the file at which the future of window 0 starts, that of window i i rows later; None: not recorded, or of
    images."""
    arrays: Mapping[str, str]
    """SHA-256 of the images' arrays, in their order; {}: not recorded, or a series, whose fingerprint is a file's."""
    rows: str | None
    """Which images of the arrays: `all`, or the SHA-256 of their places; None: not recorded, or a series."""
    step: int | None = None
    """Of the weights, where an unfinished run was measured by itself; None: the run's end, or its last validation."""


def dataset_of(run: RunFolder) -> tuple[str, str]:
    """Return a run's kind and the name of its data."""
    return run.experiment.kind, str(run.environment.get("data", {}).get("name") or run.result["dataset"])


def common_split(runs: Sequence[RunFolder], metric: str) -> str:
    """Return the part of the data that all runs were measured on: the report split where they can, else what chooses.

    Raises:
        InputError: there is none; the message has the command that makes one.
    """
    kind, dataset = dataset_of(runs[0])
    known = kind == "density" and dataset in image_sets
    report = str(image_sets[dataset].report_split) if known else "test"
    if not all(_can_have(run, metric) for run in runs):
        return report  # what is read there says so
    measured = [{split for split, found in _figures(run) if found == metric} for run in runs]
    shared = set.intersection(*measured)
    for split in (report, "holdout", "validation", "test", "train"):
        if split in shared:
            return split
    chooses = "validation" if kind == "forecast" else "holdout"
    held_out = kind == "forecast" or all(run.experiment.data.holdout for run in runs)
    # Where some of them chose by it, the report split stays closed.
    split = chooses if held_out and any(chooses in found for found in measured) else report
    lacking = next(run for run, found in zip(runs, measured, strict=True) if split not in found)
    raise InputError(f"{lacking.path}: has no {metric} on {split}: {_way_out(lacking, split)}")


def on_the_same_items(runs: Sequence[RunFolder], split: str, metric: str) -> list[Kept]:
    """Return what each run keeps of a split, all of them of the same images or windows, as many as there are.

    Their own data come first, then others that all were measured on. Windows of unlike lookbacks are paired by the row
    at which their future starts.

    Raises:
        InputError: a run has nothing, or nothing of the same items; the message has the command that makes it.
    """
    found = [_kept(run, split, metric) for run in runs]
    where = _same_data(runs, found)
    of_it = [[one for one in kept if one.fingerprint == where] for kept in found]
    if any(one.first is None for kept in of_it for one in kept):
        # Beside windows whose place is not known the others' say nothing: all are taken to begin at one row.
        of_it = [[replace(one, first=None) for one in kept] for kept in of_it]
    shared = set.intersection(*({_items(one) for one in kept} for kept in of_it))
    if shared:
        # A run's own figure comes first; a small evaluation beside it may be what the other run has, too.
        most = max(shared, key=len)
        chosen = [next(one for one in kept if _items(one) == most) for kept in of_it]
    else:
        chosen = _overlapping([kept[0] for kept in of_it])
    if not chosen:
        sizes = [len(kept[0].values) for kept in of_it]
        longest, fewest = runs[sizes.index(max(sizes))], min(sizes)
        raise InputError(
            f"measured on {' and '.join(map(str, sorted(set(sizes))))} images or windows of {split}: measure them "
            f"alike, for example {_way_out(longest, split, limit=fewest)}"
        )
    if len({tuple(sorted(one.arrays.items())) for one in chosen if one.arrays}) > 1:
        raise InputError(
            f"{' and '.join(str(run.path) for run in runs)}: measured on the same images in another order, and values "
            f"are paired by their place: measure them again on one of the two, for example {_way_out(runs[0], split)}"
        )
    if len({one.rows for one in chosen} - {None}) > 1:
        raise InputError(
            f"{' and '.join(str(run.path) for run in runs)}: measured on other images of the same {split} part: runs "
            "whose data.holdout differs train on unlike images"
        )
    return chosen


def _same_data(runs: Sequence[RunFolder], found: Sequence[Sequence[Kept]]) -> str:
    """Return the fingerprint of the data to compare on: the runs' own, else the last that all were measured on."""
    if len({kept[0].fingerprint for kept in found}) == 1:
        return found[0][0].fingerprint
    shared = set.intersection(*({one.fingerprint for one in kept} for kept in found))
    if not shared:
        prints = sorted({kept[0].fingerprint for kept in found})
        raise InputError(
            f"{' and '.join(str(run.path) for run in runs)}: measured on different data: fingerprints "
            f"{', '.join(prints)}"
        )
    return next(one.fingerprint for one in found[0] if one.fingerprint in shared)


def _items(kept: Kept) -> range:
    """Return which images or windows these are, by their place."""
    first = kept.first or 0
    return range(first, first + len(kept.values))


def _overlapping(kept: Sequence[Kept]) -> list[Kept]:
    """Return the windows that all have, where they begin at different rows; [] where there are none."""
    places = [_items(one) for one in kept]
    start, stop = max(place.start for place in places), min(place.stop for place in places)
    if len({place.start for place in places}) == 1 or stop - start < 2:
        return []
    return [
        replace(one, values=one.values[start - place.start : stop - place.start], first=start)
        for one, place in zip(kept, places, strict=True)
    ]


def _figures(run: RunFolder) -> list[tuple[str, str]]:
    """Return the splits and metrics that a run has values of, or, kept without them, figures."""
    if run.kept is not None:
        return [(split, metric) for split, metrics in run.result["metrics"].items() for metric in metrics]
    return [(split, metric) for _, content in _evaluations(run) for split in content["metrics"]
            for metric in content["metrics"][split]]  # fmt: skip


def _kept(run: RunFolder, split: str, metric: str) -> list[Kept]:
    """Return what a run keeps of a metric on a split: its own figure first, then what was measured last."""
    kept = KEPT[dataset_of(run)[0]]
    if metric not in kept and (not run.finished or metric in run.result["metrics"].get(split, {})):
        raise InputError(f"--metric {metric}: not kept for each item: give one of {', '.join(kept)}")
    if run.finished and run.kept is not None:
        raise InputError(f"{run.path}: kept without its values for each item: compare --runs shows what is kept")
    mine = run.result["metrics"].get(split, {}).get(metric) if run.finished else None
    found: list[Kept] = []
    for path, content in _evaluations(run):
        figure = content["metrics"].get(split, {}).get(metric)
        if figure is None:
            continue
        if figure["value"] is None:
            raise InputError(f"{run.path}: {run.experiment.model.name} has no density, so no {metric}: take crps")
        stored = np.load(path.with_suffix(".npy"), allow_pickle=False)
        columns = content.get("per_window_columns", _PER_WINDOW)
        values = stored if stored.ndim == 1 else stored[:, columns.index(metric)]
        step = (content.get("stopped") or {}).get("step")
        arrays = content.get("data_arrays", {})
        first, rows = content.get("first_origin"), content.get("data_rows")
        one = Kept(
            figure,
            values.astype(np.float64),
            content["dataset"],
            content["data_fingerprint"],
            first,
            arrays,
            rows,
            step,
        )
        found.insert(0 if figure == mine else len(found), one)
    if found:
        return found
    has = sorted({f"{name} {key}" for name, key in _figures(run)}) or ["nothing"]
    way_out = f": {_way_out(run, split)}" if _can_have(run, metric) else ""
    raise InputError(f"{run.path}: has no {metric} on {split}; it has: {', '.join(has)}{way_out}")


def _can_have(run: RunFolder, metric: str) -> bool:
    """Say whether an evaluation gives this metric: a forecaster without a distribution has no CRPS."""
    given = {key for metrics in run.result["metrics"].values() for key in metrics} if run.finished else {metric}
    return metric in KEPT[dataset_of(run)[0]] and metric in given


def _evaluations(run: RunFolder) -> list[tuple[Path, dict[str, Any]]]:
    """Return the run's evaluations whose values lie beside them, the newest first."""
    paths = [path for path in run.evaluations.glob("*.json") if path.with_suffix(".npy").is_file()]
    newest = sorted(paths, key=lambda path: (-path.stat().st_mtime_ns, path.name))
    return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in newest]


def _way_out(run: RunFolder, split: str, limit: int | None = None) -> str:
    """Return the command that gives a run values on a split."""
    if not run.finished and not (run.path / "checkpoint.pt").is_file():
        return f"no checkpoint was saved; {shlex.join(['flowbench', 'train', str(run.path / 'config.yaml')])} trains it"
    words = ["flowbench", "evaluate", str(run.path), "--split", split]
    return shlex.join([*words, *([] if limit is None else ["--limit", str(limit)])])
