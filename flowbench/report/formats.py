"""How a table's figures are written for people."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from flowbench.config.metric_words import MEAN_OVER_COLUMNS, shares_in_words

__all__ = [
    "constant_runs",
    "decimals",
    "described",
    "difference",
    "figure",
    "labels",
    "mean",
    "models",
    "peer_figure",
    "peers",
    "published_figure",
    "records",
    "reproduced",
    "rerun_figure",
    "spread",
    "unit",
]

_UNITS = {
    "bits_per_dim": "bits/dim",
    "mae": "MAE",
    "mse": "MSE",
    "mae_original": "MAE, original units",
    "nll": "NLL, nats a value",
    "crps": "CRPS",
    "mae_median": "MAE of the median",
}
_COLUMNS: tuple[str, ...] = (
    "row",
    "dataset",
    "experiment",
    "model",
    "metric",
    "split",
    "value",
    "stderr",
    "n",
    "seed_std",
    "horizon",
)
_COLUMNS += ("lookback", "status", "reason", "budget")
_BESIDE: tuple[str, ...] = ("mae_without_stuck", "coverage_90")
"""Further columns of a CSV where any row has them."""


def unit(metric: str) -> str:
    """Return a metric's name for people."""
    return _UNITS.get(metric, metric.replace("_", " "))


def figure(row: Mapping[str, Any], of: str = "") -> str:
    """Return `value ± standard error`, its unit, with the `spread` in parentheses; a dash where there is none.

    Args:
        row: an entry of a results.json.
        of: the unit; empty: it is said elsewhere.
    """
    text, over_seeds = f"{mean(row)} {of}".rstrip(), spread(row)
    return f"{text} ({over_seeds})" if over_seeds else text


def mean(row: Mapping[str, Any]) -> str:
    """Return `value ± standard error`; a dash where there is none."""
    if row["value"] is None or not math.isfinite(row["value"]):
        return "–"
    error = "" if row["stderr"] is None else f" ± {row['stderr']:.3f}"
    return f"{row['value']:.3f}{error}"


def spread(row: Mapping[str, Any]) -> str:
    """Return the number of seeds and their standard deviation, or nothing for a single run or none."""
    return "" if row["seed_std"] is None else f"{len(row['seeds'])} seeds, sd {row['seed_std']:.3f}"


def published_figure(row: Mapping[str, Any], model: str) -> str:
    """Return a model's published figure on the row's split, with `<` for a bound and the training figure behind it."""
    mine = [entry for entry in row["published"] if entry["model"] == model]
    main = [_bounded(row, entry) for entry in mine if entry["split"] == row["split"]]
    train = [_bounded(row, entry) for entry in mine if entry["split"] == "train" and row["split"] != "train"]
    return " ".join([*main[:1], *(f"({text})" for text in train[:1])]) or "–"


def rerun_figure(row: Mapping[str, Any]) -> str:
    """Return what the program of the model that is reproduced gives today; empty where nobody ran it again."""
    published = reproduced(row)
    rerun = published and published.get("rerun")
    return f"{rerun['value']:.{decimals(row, published)}f}" if published and rerun else ""


def peer_figure(row: Mapping[str, Any], model: str) -> str:
    """Return what another library's model reaches on the row's split, the mean over its seeds, or a dash."""
    for peer in row.get("peers", ()):
        if (peer["model"], peer["split"]) == (model, row["split"]):
            return f"{fmean(peer['values']):.3f}"
    return "–"


def difference(row: Mapping[str, Any]) -> float | None:
    """Return ours − the published figure of the model that is reproduced, on the same split; None without either."""
    published = reproduced(row)
    return None if published is None or row["value"] is None else float(row["value"] - published["value"])


def reproduced(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the published figure that the row is compared with: of the model it reproduces, on the same split.

    None where ours is of images that were resized in another way, of some of them, or of another task.
    """
    if {"other resampling", "other task", "limited"} & set(row["badges"]):
        return None
    published: Sequence[Mapping[str, Any]] = row["published"]
    for entry in published:
        if (entry["model"], entry["split"]) == (row.get("reproduces"), row["split"]):
            return entry
    return None


def labels(row: Mapping[str, Any]) -> str:
    """Say what the figure is made of (levels, draws, bound, weights, window, …), and what stands beside it."""
    made_of = row.get("labels", {})
    parts = [f"{key.replace('_', ' ')} {value}" for key, value in made_of.items()]
    if row["metric"].endswith("_original") and row["value"] is not None and "unit" not in made_of:
        parts.append(MEAN_OVER_COLUMNS)
    parts += [f"{key} {row[key]}" for key in ("lookback", "horizon") if row.get(key) is not None]
    if (without := row.get("mae_without_stuck")) is not None:
        parts.append(f"without constant runs {without:.3f}")
    if (covered := row.get("coverage_90")) is not None:
        parts.append(f"central 90 % cover {covered:.1%}")
    return ", ".join(parts)


def constant_runs(row: Mapping[str, Any]) -> str:
    """Return how much of the forecast rows lies in constant runs, and the MAE without them; empty where nothing does.

    A constant run is one value over a day or more: a stuck sensor, or a gap that was filled.
    """
    if not row.get("constant_share"):
        return ""
    without = row.get("mae_without_stuck")
    rest = "no window is without one" if without is None else f"MAE of the windows without them {without:.3f}"
    return f"{shares_in_words(row['constant_share'])} ({row['split']} rows) keep one value over a day or more; {rest}"


def described(row: Mapping[str, Any]) -> str:
    """Return the badges, or why there is no figure."""
    if row["status"] != "done":
        return f"{row['status'].replace('_', ' ')}: {row['reason']}"
    return ", ".join(row["badges"])


def records(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one flat mapping for each row with everything that is known of it, in full precision, for CSV."""
    names, again = models(results), any(rerun_figure(row) for row in results["rows"])
    lines = []
    for row in results["rows"]:
        line = {column: row.get(column) for column in _COLUMNS}
        line |= {"badges": ", ".join(row["badges"]), "seeds": ", ".join(map(str, row["seeds"]))}
        line |= {"labels": labels(row), "difference": difference(row)}
        line |= {key: row.get(key) for key in _BESIDE if any(one.get(key) is not None for one in results["rows"])}
        line |= {model: published_figure(row, model) for model in names}
        line |= {model: peer_figure(row, model) for model in peers(results)}
        lines.append(line | ({"run again": rerun_figure(row)} if again else {}))
    return lines


def models(results: Mapping[str, Any]) -> list[str]:
    """Return the published models of a table, in its order."""
    return list(dict.fromkeys(entry["model"] for row in results["rows"] for entry in row["published"]))


def peers(results: Mapping[str, Any]) -> list[str]:
    """Return the models of other libraries that a table has measured figures of, in its order."""
    return list(dict.fromkeys(peer["model"] for row in results["rows"] for peer in row.get("peers", ())))


def decimals(row: Mapping[str, Any], published: Mapping[str, Any]) -> int:
    """Return how many decimals a published figure was printed with: three for errors, two for bits/dim."""
    return 3 if row["metric"] != "bits_per_dim" or round(published["value"], 2) != published["value"] else 2


def _bounded(row: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    digits = f"{entry['value']:.{decimals(row, entry)}f}"
    return f"< {digits}" if entry["bound"] == "<" else digits
