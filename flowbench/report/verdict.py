"""What a figure says beside the published one, in plain words."""

import math
from collections.abc import Mapping
from typing import Any

from flowbench.config.experiments import load_experiment
from flowbench.config.schema import Experiment
from flowbench.errors import InputError
from flowbench.evaluation.error_bars import ErrorBar, joined, of_one_more, over_seeds
from flowbench.report.formats import decimals, difference, published_figure, reproduced, rerun_figure, unit

__all__ = ["changed_settings", "details", "flat_settings", "noise", "reproduced_again", "shortfall", "verdict"]

_CHOSEN_BY_TABLE: tuple[str, ...] = (
    "name",
    "preset",
    "seed",
    "tune",
    "study",
    "data.name",
    "data.csv",
    "data.protocol",
    "data.unit",
    "data.lookback",
    "data.horizon",
    "data.features",
    "train.log_every",
    "train.checkpoint_every",
)
MAX_CHANGES = 3
LEVEL = 0.95


def noise(row: Mapping[str, Any]) -> float:
    """Return the half width of the 95 % interval that a difference to the published figure has.

    t √(stderr² + seed_std² / k), and half a unit of the published figure's last digit, to which it was rounded. t is
    Student's quantile with k − 1 degrees of freedom for the spread over k seeds (see `joined`): 4.30 for three. The
    published figure's own noise is not known and not counted.
    """
    bars = []
    if row["stderr"]:
        bars.append(ErrorBar(row["stderr"], (row["n"] or math.inf) - 1))
    if row["seed_std"]:
        bars.append(over_seeds(row["seed_std"], len(row["seeds"])))
    published = reproduced(row)
    rounding = 0.0 if published is None else 0.5 * 10.0 ** -decimals(row, published)
    return joined(bars).half_width(LEVEL) + rounding


def reproduced_again(row: Mapping[str, Any]) -> bool | None:
    """Say whether a figure is what the authors' own program gives today, within the spread of the seeds.

    The program ran with one seed: its figure is taken for that of one seed more of ours (95 %, and half a unit of the
    last digit shown). None without such a figure, or without a spread of ours.
    """
    published = reproduced(row)
    if published is None or row["value"] is None or not published.get("rerun") or not row["seed_std"]:
        return None
    rounding = 0.5 * 10.0 ** -decimals(row, published)
    allowed = of_one_more(row["seed_std"], len(row["seeds"])).half_width(LEVEL) + rounding
    return bool(abs(row["value"] - published["rerun"]["value"]) <= allowed)


def verdict(row: Mapping[str, Any]) -> str:
    """Return the verdict on a row as a short phrase: how far it is from the published figure; empty without a figure.

    What is within noise of the published figure, or else of what the authors' own program gives today, is reproduced.

    Args:
        row: an entry of a results.json.
    """
    if row["status"] != "done":
        return ""
    if "other resampling" in row["badges"] and row.get("reproduces"):
        return "no reproduction: other images"
    if "limited" in row["badges"]:
        return "compared with nothing: a small evaluation"
    if "other task" in row["badges"]:
        return "compared with nothing: another task"
    gap, published = difference(row), reproduced(row)
    if gap is None or published is None:
        return "compared with no published figure"
    words = _beside_the_paper(row, gap, published)
    return words if words.startswith("within") or not reproduced_again(row) else "reproduces its authors' program"


def details(row: Mapping[str, Any], short: str = "") -> str:
    """Return what stands under the verdict: what must be known of the two figures, and of this training.

    Args:
        row: an entry of a results.json.
        short: what was less than the preset asks for (`shortfall`).
    """
    said, published = [], reproduced(row)
    if row["status"] != "done":
        return ""
    if "other resampling" in row["badges"] and row.get("reproduces"):
        of = f"{row['reproduces']}'s {published_figure(row, row['reproduces']).split(' (')[0]}"
        said.append(f"those of {of} were resized in another way than by {row['labels']['resample']}")
    if "limited" in row["badges"]:
        said.append(f"of {row['labels']['limited']}")
    if published is not None and reproduced_again(row) is not None:
        said.append(f"its authors' program gives {rerun_figure(row)} today")
        beside = _beside_the_paper(row, row["value"] - published["value"], published)
        said += [beside] if beside != verdict(row) else []
    if published is not None and published["bound"] == "<":
        said.append(f"{published['model']}'s figure is an upper bound")
    if published is not None and published.get("lookback") not in (None, row.get("lookback")):
        said.append(f"{published['model']} looks back {published['lookback']} steps")
    return "; ".join([*said, *([short] if short else [])])


def shortfall(row: Mapping[str, Any], result: Mapping[str, Any], experiment: Experiment[Any, Any] | None) -> str:
    """Say in what a custom run is less than, or other than, the shipped preset of its name; empty for none.

    Args:
        row: an entry of a results.json.
        result: its first run's result.json.
        experiment: the run's resolved experiment.
    """
    if experiment is None or row["budget"] != "custom":
        return ""
    try:
        preset = load_experiment(experiment.name)
    except InputError:
        return ""
    parts = [_length(result, experiment, preset), *changed_settings(experiment, preset)]
    said = [part for part in parts if part]
    more = len(said) - MAX_CHANGES - 1
    return ", ".join([*said[: MAX_CHANGES + 1], *([f"{more} more settings changed"] if more > 0 else [])])


def changed_settings(experiment: Experiment[Any, Any], preset: Experiment[Any, Any]) -> list[str]:
    """Return `key value instead of value` for every setting that makes a figure and differs from the preset's."""
    ours, theirs = flat_settings(experiment), flat_settings(preset)
    lengths = ("train.epochs", "train.steps")
    keys = [key for key in ours if ours[key] != theirs.get(key) and key not in lengths]
    chosen = [key for key in keys if not any(f"{key}.".startswith(f"{name}.") for name in _CHOSEN_BY_TABLE)]
    return [f"{key} {_setting(ours[key])} instead of {_setting(theirs.get(key))}" for key in chosen]


def flat_settings(experiment: Experiment[Any, Any]) -> dict[str, Any]:
    """Return every setting of an experiment by its dotted key."""
    return _flat(experiment.model_dump(mode="json"))


def _setting(value: Any) -> str:
    return "nothing" if value is None else str(value)


def _length(result: Mapping[str, Any], experiment: Experiment[Any, Any], preset: Experiment[Any, Any]) -> str:
    lasting = (experiment.train.epochs, experiment.train.steps) == (preset.train.epochs, preset.train.steps)
    if lasting and experiment.train.patience is not None and not result.get("time_budget"):
        return ""  # its own rule ended it: validation did not improve any more
    for key in ("epochs", "steps"):
        wanted, done = getattr(preset.train, key), result.get(key)
        if wanted is not None and done is not None and done < wanted:
            return f"trained {f'{done:.2g}' if done < 10 else f'{done:,.0f}'} of {wanted:,} {key}"
    return ""


def _beside_the_paper(row: Mapping[str, Any], gap: float, published: Mapping[str, Any]) -> str:
    figure = published_figure(row, published["model"]).split(" (")[0]
    return _compared(gap, noise(row), f"{published['model']}'s {figure}", unit(row["metric"]))


def _compared(gap: float, noise: float, published: str, unit: str) -> str:
    if abs(gap) <= noise:
        return f"within noise of {published}"
    return f"{abs(gap):.3g} {unit} {'above' if gap > 0 else 'below'} {published}"


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
