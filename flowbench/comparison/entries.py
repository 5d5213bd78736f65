"""What is compared: finished runs, and the trials of a study with those that were pruned or failed."""

import fnmatch
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbench.comparison.cost import flops_of
from flowbench.comparison.kept_values import KEPT
from flowbench.errors import InputError, did_you_mean
from flowbench.report.verdict import flat_settings
from flowbench.runs.comparable import check_same_forecasts
from flowbench.runs.folder import RUNS, RunFolder, find_run
from flowbench.runs.same_data import check_same_data

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

__all__ = ["Entry", "Field", "by_objectives", "differing", "field_of_runs", "field_of_study", "runs_like"]

_UNTOLD = ("name", "preset", "seed", "data.holdout", "train.log_every", "train.checkpoint_every", "train.keep")


@dataclass(frozen=True)
class Entry:
    """One run or trial."""

    name: str
    path: Path | None
    """None: its folder is on another machine."""
    state: str
    """complete, pruned, failed, running, waiting."""
    reason: str
    settings: Mapping[str, Any]
    """Every setting by its dotted key, the seed left out."""
    seed: int
    value: float | None
    """Of the metric; None unless complete."""
    stderr: float | None
    """Over images."""
    parameters: int | None
    flops: int | None
    """Of the log-likelihood of one image, or of the forecast of one window."""
    speed: float | None
    """Images or windows per second in training."""
    steps: int
    curve: Sequence[tuple[int, float]]
    """(step, validation figure)."""
    bound: str | None = None
    """What the value is of the likelihood: `exact`, or the bound that it is; None: unknown, or none of a likelihood."""


@dataclass(frozen=True)
class Field:
    """All that is compared, and what by."""

    title: str
    metric: str
    split: str
    unit: str
    """`images` or `windows`."""
    entries: Sequence[Entry]
    facts: Mapping[str, str] = field(default_factory=dict)
    """What all have in common: the data, and how a study searches."""
    command: str | None = None
    """Trains the best trial of a study in full."""


def runs_like(pattern: str) -> list[str]:
    """Return the finished runs of the experiments whose names match a shell pattern (`real_nvp/*`), studies left out.

    Raises:
        InputError: there are none.
    """
    found: dict[str, list[str]] = {}
    for config in sorted(RUNS.glob("**/config.yaml")):
        if (config.parent / "result.json").is_file() and not (config.parent / "trial.json").is_file():
            found.setdefault(RunFolder(config.parent).experiment.name, []).append(str(config.parent))
    chosen = [run for name, runs in found.items() if fnmatch.fnmatchcase(name, pattern) for run in runs]
    if not chosen:
        near = did_you_mean(pattern, found) if found else f"; there are no finished runs under {RUNS}/"
        raise InputError(f"--experiment {pattern}: no finished run of such an experiment{near}")
    return chosen


def field_of_runs(
    names: Sequence[str], title: str, *, metric: str | None = None, split: str | None = None
) -> Field:  # fmt: skip
    """Return runs to compare.

    Args:
        names: of the runs.
        title: of what is compared.
        metric: as of `compare_runs` [default: bits_per_dim, mae].
        split: of the data [default: the first one but `train` that all were measured on].

    Raises:
        InputError: a run is unknown or not finished; the runs are of different data or share no figure.
    """
    runs = [find_run(name) for name in dict.fromkeys(names)]
    results = [run.result for run in runs]
    for run in runs:
        check_same_data(run)
    for what in ("kind", "dataset", "data_fingerprint"):
        if len(different := {str(result.get(what)) for result in results}) > 1:
            raise InputError(f"the runs are of different {what.replace('_', ' ')}s: {', '.join(sorted(different))}")
    check_same_forecasts(runs, "the runs")
    known = KEPT[results[0]["kind"]]
    if metric is not None and metric not in known:
        raise InputError(f"--metric {metric}: give one of {', '.join(known)}")
    what = metric or known[0]
    shared = [
        name
        for name in results[0]["metrics"]
        if all(result["metrics"].get(name, {}).get(what, {}).get("value") is not None for result in results)
    ]
    parts = [name for name in shared if name == split or (split is None and name != "train")]
    if not parts:
        where = f"no part of {results[0]['dataset']}" if split is None else f"no {split} part"
        raise InputError(f"the runs share {where} on which all have {what}; all have it on: {', '.join(shared) or '–'}")
    items = {str(result["metrics"][parts[0]][what].get("limited", "all")) for result in results}
    if len(items) > 1:
        raise InputError(f"the runs were measured on unlike numbers of items: {', '.join(sorted(items))}")
    entries = [_of_run(run, str(run.path), "complete", "", what, parts[0]) for run in runs]
    unit = "images" if results[0]["kind"] == "density" else "windows"
    return Field(title, what, parts[0], unit, entries, _data_facts(runs[0]))


def field_of_study(study: "optuna.Study") -> Field:
    """Return the trials of a study to compare by its first objective."""
    from flowbench.tuning.joining import study_folder
    from flowbench.tuning.trial import SURPLUS

    density = study.user_attrs.get("kind") == "density"
    names = study.metric_names or ["bits_per_dim" if density else "mae"]
    metric, split = ("bits_per_dim", "holdout") if density else ("mae", "validation")
    if names[0] in ("bits_per_dim", "mae", "mse", "nll", "crps"):
        metric = names[0]
    entries = []
    for trial in study.get_trials(deepcopy=False):
        if trial.user_attrs.get(SURPLUS):
            continue
        state = {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())
        reason = str(trial.user_attrs.get("reason", "its worker was killed" if state == "failed" else ""))
        run = RunFolder(study_folder(study) / str(trial.user_attrs.get("run", "none")))
        name = f"trial {trial.number}"
        if run.exists:
            check_same_data(run)
            entries.append(_of_run(run, name, state, reason, metric, split))
        else:
            value = trial.values[names.index(metric)] if trial.values and metric in names else None
            entries.append(
                Entry(name, None, state, reason, trial.params, 0, value, None, None, None, None, 0, ())
            )  # fmt: skip
    title, item = f"Study {study.study_name}", "images" if density else "windows"
    runs = [RunFolder(entry.path) for entry in entries if entry.path is not None]
    facts = {**(_data_facts(runs[0]) | _search_facts(runs[0]) if runs else {}), "Trials": _counted(entries)}
    return Field(title, metric, split, item, entries, facts, _command(study, study_folder(study)))


def by_objectives(trial: "FrozenTrial", study: "optuna.Study") -> tuple[list[float], int]:
    """Return a key that puts trials in the order of the study's objectives, the first one's best first."""
    maximized = [direction.name == "MAXIMIZE" for direction in study.directions]
    return [-value if more else value for value, more in zip(trial.values, maximized, strict=True)], trial.number


def _command(study: "optuna.Study", folder: Path) -> str | None:
    """Return the command that trains the best trial in full; None: no trial is complete."""
    best = folder / "best.yaml"
    if best.is_file():
        return shlex.join(["flowbench", "train", str(best)])
    front = study.best_trials
    if not front:
        return None
    chosen = min(front, key=lambda trial: by_objectives(trial, study)).params
    changes = [f"{key}={value}" for key, value in chosen.items()]
    return shlex.join(["flowbench", "train", str(study.user_attrs.get("experiment")), *changes])


def _counted(entries: Sequence[Entry]) -> str:
    states = Counter(entry.state for entry in entries)
    return ", ".join(f"{number} {state}" for state, number in states.most_common())


def _data_facts(run: RunFolder) -> dict[str, str]:
    data = run.environment.get("data", {})
    known = run.experiment.data.name or run.experiment.data.csv
    fingerprint = str(data.get("fingerprint", ""))[:12]
    return {"Data set": f"{data.get('name') or known}" + (f", fingerprint {fingerprint}…" if fingerprint else "")}


def _search_facts(run: RunFolder) -> dict[str, str]:
    experiment = run.experiment
    study, train, held = experiment.study, experiment.train, getattr(experiment.data, "holdout", 0)
    budget = f"{train.steps:,} steps" if train.steps is not None else f"{train.epochs:,} epochs"
    return {
        "Chosen by": f"{held:,} images put aside from the training part" if held else "the validation part",
        "Sampler": f"{study.sampler}, seed {study.seed}",
        "Pruner": study.pruner,
        "Budget of a trial": budget,
        "Searched": ", ".join(experiment.tune) or "–",
    }


def _of_run(run: RunFolder, name: str, state: str, reason: str, metric: str, split: str) -> Entry:
    experiment = run.experiment
    result: Mapping[str, Any] = run.result if run.finished else {}
    figure = result.get("metrics", {}).get(split, {}).get(metric, {}) if state == "complete" else {}
    rows = run.metrics()
    key = f"validation/{metric}"
    told = {key: value for key, value in flat_settings(experiment).items() if not _untold(key)}
    speeds = [value for key, value in result.get("throughput", {}).items() if key.startswith("train_")]
    return Entry(
        name=name,
        path=run.path,
        state=state,
        reason=reason,
        settings=told,
        seed=experiment.seed,
        value=figure.get("value"),
        stderr=figure.get("stderr"),
        parameters=result.get("parameters"),
        flops=flops_of(experiment, run.environment.get("data", {})) if result else None,
        speed=speeds[0] if speeds else None,
        steps=max((int(row["step"]) for row in rows), default=0),
        curve=[(row["step"], row[key]) for row in rows if row.get(key) is not None],
        bound=figure.get("bound"),
    )


def _untold(key: str) -> bool:
    return key in _UNTOLD or key.startswith(("tune.", "study."))


def differing(entries: Sequence[Entry]) -> list[str]:
    """Return the settings that are not the same in all entries."""
    keys = dict.fromkeys(key for entry in entries for key in entry.settings)
    # A setting that an entry lacks altogether (another model's, another machine's trial) says nothing by itself.
    return [
        key
        for key in keys
        if len({json.dumps(entry.settings[key], default=str) for entry in entries if key in entry.settings}) > 1
    ]
