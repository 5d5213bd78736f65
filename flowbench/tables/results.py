"""From run folders to the rows of a table's `results.json`: figures over seeds, labels, badges, what is stale."""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowbench.config.experiments import config_id, config_sha256, load_experiment
from flowbench.config.metric_words import bound_of_all
from flowbench.config.registry import image_sets, series_sets
from flowbench.config.schema import COMPILED_NUMERICS, FUSED, Experiment
from flowbench.data.image_set import ImageSet, data_root
from flowbench.data.manifest import Manifest, read_manifest
from flowbench.errors import FlowbenchError, InputError
from flowbench.runs.folder import RunFolder
from flowbench.runs.same_data import fingerprints_here
from flowbench.tables.table import Entry, Row

__all__ = ["OTHER_IMAGES", "OTHER_TASK", "done_row", "empty_row", "rechecked_row", "stale_reasons"]

LABELS = ("levels", "dequantization", "draws", "bound", "batch_norm", "weights", "unit", "samples", "limited")
OTHER_IMAGES = "other resampling"
"""The badge of figures on images that were resized in another way than those of the published figures."""
OTHER_TASK = "other task"
"""The badge of figures of other values than the row's: other grey levels, columns, steps ahead, another protocol."""
_TASK = ("bits", "levels", "size", "crop", "horizon", "features", "target", "protocol", "test_on")
"""Keys of a `data:` section that say what is measured, not how well."""


def empty_row(
    row: Row, entry: Entry, experiment: Experiment[Any, Any], *, status: str, reason: str | None
) -> dict[str, Any]:
    """Return the entry of a row that has no figure: `status` is skipped, failed or not_run, for this reason."""
    return {
        "row": row.row,
        "dataset": row.dataset,
        "experiment": entry.name,
        "model": experiment.model.name,
        "config": config_id(experiment),
        "metric": row.metric,
        "split": row.split,
        "value": None,
        "stderr": None,
        "n": None,
        "seeds": [],
        "seed_std": None,
        "values": [],
        "horizon": getattr(experiment.data, "horizon", None),
        "lookback": getattr(experiment.data, "lookback", None),
        "status": status,
        "reason": reason,
        "budget": None,
        "badges": [],
        "runs": [],
        "published": [figure.model_dump(mode="json") for figure in row.published],
        "peers": [peer.model_dump(mode="json") for peer in row.peers],
        "reproduces": entry.reproduces,
        "labels": {},
        "mae_without_stuck": None,
        "constant_share": {},
        "data_status": None,
        "note": row.note,
    }


def done_row(
    row: Row, entry: Entry, experiments: Sequence[Experiment[Any, Any]], runs: Sequence[Path], out: Path
) -> dict[str, Any]:
    """Return the entry of a row from its finished runs, one for each seed.

    value = mean over the seeds; seed_std = standard deviation over them (ddof 1; null for one);
    stderr = mean of the runs' standard errors over images. The seeds share their test images, so that the errors add
    up rather than cancel: this mean is an upper bound of the standard error over images of the seeds' mean, and for one
    seed it is that run's own.

    Args:
        row: the table's row.
        entry: the experiment's entry in it.
        experiments: the resolved experiments of today, one for each run.
        runs: finished run folders.
        out: the folder that the run paths are written relative to.
    """
    results = [RunFolder(path).result for path in runs]
    content = empty_row(row, entry, experiments[0], status="done", reason=None)
    content["runs"] = [Path(os.path.relpath(path, out)).as_posix() for path in runs]
    content["seeds"] = [result["seed"] for result in results]
    metrics = [result.get("metrics", {}).get(row.split, {}).get(row.metric) or {} for result in results]
    values = [_number(metric.get("value")) for metric in metrics]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        place = values.index(None)
        reason = f"{content['runs'][place]}: result.json has no finite {row.metric} on {row.split}"
        if metrics[place].get("per_column"):
            reason += ": declare the unit that all columns have (data.unit), or take mae"
        return {**content, "status": "failed", "reason": reason}
    errors = [error for metric in metrics if (error := _number(metric.get("stderr"))) is not None]
    budgets = {str(result.get("budget")) for result in results}
    beside_others = bool(row.published or row.peers)
    status = _worst([str(result.get("data_status", "unverified")) for result in results])
    stale = [reasons for pair in zip(results, experiments, strict=True) if (reasons := stale_reasons(*pair))]
    content |= {
        "value": statistics.fmean(known),
        "values": known,
        "stderr": statistics.fmean(errors) if len(errors) == len(known) else None,
        "n": metrics[0].get("n"),
        "seed_std": statistics.stdev(known) if len(known) > 1 else None,
        "budget": budgets.pop() if len(budgets) == 1 else "custom",
        "badges": [
            *(["limited"] if any("limited" in metric for metric in metrics) else []),
            *([OTHER_TASK] if beside_others and not all(_is_asked_for(entry, one) for one in experiments) else []),
            *_badges(results, runs, status, stale=bool(stale)),
        ],
        "reason": f"stale: {'; '.join(stale[0])}" if stale else None,
        "labels": _labels(metrics),
        "data_status": status,
        **(_without_stuck(results, row.split) if row.metric == "mae" else {}),
        **_costs(results, RunFolder(runs[0])),
        **(_covered(results, row.split) if row.metric == "crps" else {}),
    }
    return _with_resample(content, [_resample(row.dataset, *pair) for pair in zip(results, metrics, strict=True)])


def _is_asked_for(entry: Entry, experiment: Experiment[Any, Any]) -> bool:
    """Say whether an experiment measures what its entry in a table says; overrides of a call may change it."""
    try:
        asked = load_experiment(entry.name, entry.overrides).data
    except InputError:
        return True  # of one's own: no published figure is of it
    return all(getattr(asked, key, None) == getattr(experiment.data, key, None) for key in _TASK)


def _labels(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is said of a row's figures: that of the first seed, and a bound where any of them is one."""
    labels = {key: metrics[0][key] for key in LABELS if metrics[0].get(key) is not None}
    bound = bound_of_all(metric.get("bound") for metric in metrics)
    return labels if bound is None else labels | {"bound": bound}


def rechecked_row(row: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return a stored row, marked stale where its runs say another figure or would give another one today.

    Args:
        row: an entry of a results.json.
        base: the folder that the paths of its runs are relative to.
    """
    runs = [run for path in row["runs"] if (run := RunFolder(base / path)).finished]
    if row["status"] != "done":
        return dict(row)
    if not runs:
        return _with_resample(row, [_resample(row["dataset"], {}, row.get("labels", {}))])
    reasons, values, resamples = [], [], []
    for run in runs:
        try:
            reasons += stale_reasons(run.result, run.experiment)
            metric = run.result["metrics"][row["split"]][row["metric"]]
            values.append(_number(metric["value"]))
            resamples.append(_resample(row["dataset"], run.result, metric))
        except (FlowbenchError, KeyError, TypeError) as error:
            reasons.append(f"{run.path.name}: not readable ({' '.join(str(error).split())[:200]})")
    row = _with_resample(row, resamples)
    known = [value for value in values if value is not None]
    if len(known) < len(row["runs"]) or not math.isclose(statistics.fmean(known), row["value"], rel_tol=1e-9):
        reasons.append("its runs have other figures")
    if not reasons or "stale" in row["badges"]:
        return dict(row)
    return {**row, "badges": [*row["badges"], "stale"], "reason": f"stale: {'; '.join(dict.fromkeys(reasons))}"}


def stale_reasons(result: Mapping[str, Any], experiment: Experiment[Any, Any]) -> list[str]:
    """Say in what a stored result differs from what the experiment would give today: config, code, data."""
    reasons = []
    if result.get("config_sha256") != config_sha256(experiment):
        reasons.append("the config is another one today")
    numerics = result.get("numerics")
    stored = numerics if isinstance(numerics, Mapping) else {"model": numerics}
    if stored.get("model") != experiment.model.numerics:
        reasons.append(f"{experiment.model.name} computes differently today")
    if _measured_compiled_weights(experiment) and stored.get("compiled", 1) != COMPILED_NUMERICS:
        reasons.append("its compiled training measured kernels of earlier weights")
    name = experiment.data.name
    known = image_sets if experiment.kind == "density" else series_sets
    if name is not None and name in known and stored.get("data") != known[name].numerics:
        reasons.append(f"{name} is prepared differently today")
    today = fingerprints_here(experiment).get("train" if experiment.kind == "density" else "file")
    if today is not None and result.get("data_fingerprint") != today:
        reasons.append("the data has another fingerprint today")
    return reasons


def _costs(results: Sequence[Mapping[str, Any]], run: RunFolder) -> dict[str, Any]:
    """Return the `costs` of a row whose first run has them: beside them, its size and its training's mean seconds."""
    costs = run.costs
    if costs is None:
        return {}
    seconds = [result.get("throughput", {}).get("train_processor_seconds") for result in results]
    known = [value for value in seconds if value is not None]
    mean = statistics.fmean(known) if len(known) == len(seconds) else None
    return {"costs": {**costs, "parameters": results[0]["parameters"], "train_processor_seconds": mean}}


def _without_stuck(results: Sequence[Mapping[str, Any]], split: str) -> dict[str, Any]:
    """Return the mean over the runs of the MAE without stuck sensors, and how much of the rows these are."""
    metrics = [result["metrics"][split].get("mae_without_stuck") or {} for result in results]
    known = [value for metric in metrics if (value := _number(metric.get("value"))) is not None]
    return {
        "mae_without_stuck": statistics.fmean(known) if len(known) == len(metrics) else None,
        "constant_share": metrics[0].get("constant_share") or {},
    }


def _covered(results: Sequence[Mapping[str, Any]], split: str) -> dict[str, Any]:
    """Return the mean over the runs of what central 90 % intervals cover."""
    metrics = [result["metrics"][split].get("coverage_90") or {} for result in results]
    known = [value for metric in metrics if (value := _number(metric.get("value"))) is not None]
    return {"coverage_90": statistics.fmean(known)} if len(known) == len(metrics) else {}


def _measured_compiled_weights(experiment: Experiment[Any, Any]) -> bool:
    """Say whether figures are of weights that a compiled density and a fused optimizer left; averages are copied."""
    compiled = experiment.kind == "density" and experiment.train.compile
    return compiled and experiment.optim.name in FUSED and experiment.weights == "raw"


def _with_resample(row: Mapping[str, Any], names: Sequence[str | None]) -> dict[str, Any]:
    """Return the row labelled with how its runs' images were resized, with a badge where the published ones' differ."""
    told = sorted({name for name in names if name is not None})
    if not told:
        return dict(row)
    labelled = {**row, "labels": {**row.get("labels", {}), "resample": " and ".join(told)}}
    known: ImageSet = image_sets[row["dataset"]]
    if OTHER_IMAGES in row["badges"] or not any(known.prepared_otherwise({"resample": name}) for name in told):
        return labelled
    budget = "custom" if row["budget"] == "paper" else row["budget"]
    return {**labelled, "badges": [*row["badges"], OTHER_IMAGES], "budget": budget}


def _resample(dataset: str, result: Mapping[str, Any], metric: Mapping[str, Any]) -> str | None:
    """Return how the images behind a run's figure were resized; None where their set offers no choice.

    A figure without the label is older than the label. The images that lie here say it where they are the same ones;
    otherwise it counts as that of a manifest which does not say it.
    """
    if dataset not in image_sets or not image_sets[dataset].resamples:
        return None
    if "resample" in metric:
        return str(metric["resample"])
    here = _manifest(dataset)
    same = here is not None and here.splits["train"].content_sha256 == result.get("data_fingerprint")
    choices: dict[str, str] = image_sets[dataset].choices(here.preprocessing if here and same else {})
    return choices["resample"]


def _manifest(name: str) -> Manifest | None:
    """Return the manifest of a set as it lies here today; None where there is none, or none with training images."""
    try:
        manifest = read_manifest(data_root() / name)
    except FlowbenchError:
        return None
    return manifest if "train" in manifest.splits else None


def _badges(results: Sequence[Mapping[str, Any]], runs: Sequence[Path], status: str, *, stale: bool) -> list[str]:
    budgets = {result.get("budget") for result in results}
    badges = [badge for badge in ("quick", "custom") if badge in budgets]
    if status != "verified":
        badges.append(status)
    if any(_is_dirty(path) for path in runs):
        badges.append("dirty")
    return [*badges, "stale"] if stale else badges


def _is_dirty(run: Path) -> bool:
    try:
        return bool(RunFolder(run).environment.get("dirty"))
    except FlowbenchError:
        return False


def _worst(statuses: Sequence[str]) -> str:
    order = ("verified", "counts match", "own data", "unverified")
    return max(statuses, key=lambda status: order.index(status) if status in order else len(order))


def _number(value: object) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None  # type: ignore[arg-type]
