"""Many runs in one file, to be committed: a line a run, and the environments that runs share once.

`<folder>/runs.jsonl` takes the place of the run folders `<folder>/runs/<name>`. Its lines are sorted by name, so that a
run made again changes one line:

- `{"environment": id, "content": {…}}`
- `{"run": name, "environment": id, "config": {…}, "result": {…}, "curve": {key: [[step, value], …]}}`, with `costs`
  where they were measured

The pictures lie beside it, in `<folder>/figures/<name>`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from flowbench.errors import InputError
from flowbench.system import atomic

__all__ = [
    "CURVE_POINTS",
    "KEPT_RUNS",
    "KeptRun",
    "kept_figures",
    "kept_file",
    "kept_run",
    "thinned_curve",
    "write_kept_runs",
]

KEPT_RUNS = "runs.jsonl"
CURVE_POINTS = 200
"""Of a run's curve, all its series together: as many as a plot on a page can show."""
DIGITS = 5
"""Significant digits of a curve's values."""

Curve = Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class KeptRun:
    """What is kept of a run: all but its weights, its values for each image or window, and most points of its curve."""

    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    result: Mapping[str, Any]
    curve: Curve
    costs: Mapping[str, Any] | None = None
    """The content of `costs.json`; None: not measured."""

    def metrics(self) -> list[dict[str, Any]]:
        """Return the curve as rows of a `metrics.jsonl`: one value beside its step in each."""
        return [{"step": step, key: value} for key, points in self.curve.items() for step, value in points]


def kept_run(path: Path) -> KeptRun | None:
    """Return what is kept of the run whose folder is, or was, `path`; None: nothing is.

    Raises:
        InputError: the file that should hold it is damaged.
    """
    file = kept_file(path)
    try:
        stamp = file.stat()
    except OSError:
        return None
    if path.parent.name != "runs":
        return None
    return _read(file, stamp.st_mtime_ns, stamp.st_size).get(path.name)


def kept_file(path: Path) -> Path:
    """Return the file that may hold the run whose folder is, or was, `path`."""
    return path.parent.parent / KEPT_RUNS


def kept_figures(path: Path) -> Path:
    """Return the folder of the pictures that are kept of the run whose folder is, or was, `path`."""
    return path.parent.parent / "figures" / path.name


def write_kept_runs(file: Path, runs: Mapping[str, KeptRun]) -> None:
    """Write runs by their names, atomically."""
    environments = {_id(run.environment): run.environment for run in runs.values()}
    lines = [{"environment": name, "content": content} for name, content in sorted(environments.items())]
    lines += [
        {
            "run": name,
            "environment": _id(run.environment),
            "config": run.config,
            "result": run.result,
            "curve": run.curve,
            **({} if run.costs is None else {"costs": run.costs}),
        }
        for name, run in sorted(runs.items())
    ]
    atomic.write_text(file, "".join(_compact(line) + "\n" for line in lines))


def thinned_curve(metrics: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Return the points of some keys, at most `CURVE_POINTS` in all: the first, the last, evenly chosen ones between.

    Args:
        metrics: rows of a `metrics.jsonl`.
        keys: what is kept; the last one (validation, which has few points) is thinned least.
    """
    series = {key: [(row["step"], row[key]) for row in metrics if row.get(key) is not None] for key in keys}
    left, curve = CURVE_POINTS, {}
    for place, key in enumerate(reversed(keys), 1):
        curve[key] = _thinned(series[key], left // (len(keys) - place + 1))
        left -= len(curve[key])
    return {key: [(step, float(f"{value:.{DIGITS}g}")) for step, value in curve[key]] for key in keys if curve[key]}


def _thinned(points: Sequence[tuple[int, float]], most: int) -> Sequence[tuple[int, float]]:
    if len(points) <= most:
        return points
    return [points[place * (len(points) - 1) // (most - 1)] for place in range(most)]


def _id(environment: Mapping[str, Any]) -> str:
    return hashlib.sha256(_compact(environment).encode()).hexdigest()[:12]


def _compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


@lru_cache(maxsize=8)
def _read(file: Path, modified: int, size: int) -> dict[str, KeptRun]:
    """Read a whole file; the arguments beside its path are there to read it again when it has changed."""
    environments: dict[str, Any] = {}
    runs = {}
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            if "run" in line:
                environment = environments[line["environment"]]
                runs[line["run"]] = KeptRun(
                    line["config"], environment, line["result"], line["curve"], line.get("costs")
                )
            else:
                environments[line["environment"]] = line["content"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}: line {number} is no kept run ({type(error).__name__}: {error})") from error
    return runs
