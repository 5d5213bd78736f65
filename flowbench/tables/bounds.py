"""The accuracy gate: whether each figure of a table lies where it lay when its bounds were measured."""

import io
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import scipy.stats

from flowbench.errors import InputError
from flowbench.system import atomic
from flowbench.tables.result_files import read_results
from flowbench.tables.table import Bounds, Table, load_table, table_path

__all__ = ["measured_bounds", "numbered", "outside", "ungated", "write_bounds"]

Key = tuple[str, str, int]
CONFIDENCE = 0.99
FLOOR = 5e-4
"""Least tolerance, in parts of the value: closed forms have no spread over seeds, but other CPUs round differently."""


def measured_bounds(values: Sequence[float], seeds: Sequence[int], config: str) -> Bounds:
    """Return the bounds that figures of k ≥ 3 seeds give: mean ± t · s · √(1 + 1/k).

    That is the two-sided 99 % prediction interval of one more run under Student's t with k − 1 degrees of freedom, s
    the standard deviation over the seeds (ddof 1). A training on another kind of CPU rounds differently and takes
    another path, as another seed does: the spread over seeds covers it.
    """
    k, mean = len(values), statistics.fmean(values)
    quantile = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, k - 1))
    tolerance = max(quantile * statistics.stdev(values) * math.sqrt(1 + 1 / k), FLOOR * abs(mean))
    return Bounds(
        value=_rounded(mean),
        tolerance=_rounded(tolerance),
        seeds=tuple(seeds),
        values=tuple(_rounded(value) for value in values),
        config=config,
    )


def outside(table: Table, results: Mapping[str, Any]) -> list[str]:
    """Return one line for each figure that lies outside its bounds, on either side, or that is of another config.

    Raises:
        InputError: no row of the table has bounds.
    """
    bounds = _bounds(table)
    if not bounds:
        raise InputError(
            f"--gate: no row of table {table.table} has bounds: measure them with `flowbench reproduce {table.table} "
            "--seeds 0,1,2`, then write them with `flowbench bounds`"
        )
    lines = []
    for key, row in numbered(results["rows"]):
        known = bounds.get(key)
        if known is None or row["status"] != "done":
            continue
        name = f"{row['row']}, {row['experiment']}: {row['split']} {row['metric']} {row['value']:.4f}"
        where = f"{known.value:.4f} ± {known.tolerance:.4f} (seeds {', '.join(map(str, known.seeds))})"
        away = row["value"] - known.value
        if row["config"] != known.config:
            lines.append(
                f"{name}: its bounds {where} were measured on another config: renew them with flowbench bounds"
            )
        elif away > known.tolerance:
            lines.append(f"{name}: {away:.4f} above {where}: the model has become worse")
        elif away < -known.tolerance:
            lines.append(f"{name}: {-away:.4f} below {where}: too good; look for what no longer counts")
    return lines


def ungated(table: Table, results: Mapping[str, Any]) -> list[str]:
    """Return one line for each entry that the gate says nothing about: without bounds, or without a figure."""
    bounds, lines = _bounds(table), []
    for key, row in numbered(results["rows"]):
        known = key in bounds
        if not known or row["status"] != "done":
            reason = f"{row['status'].replace('_', ' ')}: {row['reason']}" if known else "has no bounds"
            lines.append(f"{row['row']}, {row['experiment']}: not gated: {reason}")
    return lines


def write_bounds(results: Path, table: str | None = None) -> tuple[Path, list[str]]:
    """Write bounds from stored results into the table's YAML file, its comments kept; return the file and what changed.

    Args:
        results: the folder of `results.json`, with at least three seeds a row.
        table: the YAML file, where it is not the one that the results' table name finds.

    Raises:
        InputError: no readable results; no row has figures of three seeds, not stale.
    """
    path = results / "results.json" if results.is_dir() else results
    content = read_results(path)
    try:
        usable = {
            key: row
            for key, row in numbered(content["rows"])
            if row["status"] == "done" and len(row["values"]) >= 3 and not {"stale", "limited"} & set(row["badges"])
        }
        name = table or content["table"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: no results of flowbench reproduce ({type(error).__name__})") from error
    if not usable:
        raise InputError(f"{path}: no row has figures of three seeds: flowbench reproduce {name} --seeds 0,1,2")
    found = {key: measured_bounds(row["values"], row["seeds"], row["config"]) for key, row in usable.items()}
    load_table(name)
    file = table_path(name)
    atomic.write_text(file, _entered(file.read_text(encoding="utf-8"), found))
    load_table(str(file))
    lines = [f"{key[0]}, {key[1]}: {known.value} ± {known.tolerance}" for key, known in found.items()]
    return file, lines


def _bounds(table: Table) -> dict[Key, Bounds]:
    entries = [
        {"row": row.row, "experiment": entry.name, "entry": entry} for row in table.rows for entry in row.experiments
    ]
    return {key: one["entry"].bounds for key, one in numbered(entries) if one["entry"].bounds is not None}


def numbered(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Key, Mapping[str, Any]]]:
    """Give each line of a table its key: an experiment may stand in a row several times, with other overrides."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for row in rows:
        name = (row["row"], row["experiment"])
        found.append(((*name, seen[name]), row))
        seen[name] += 1
    return found


def _entered(text: str, found: Mapping[Key, Bounds]) -> str:
    """Return the YAML text with the bounds in their entries."""
    # Imported here: only this rare command needs a YAML library that keeps comments.
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap, CommentedSeq
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width, yaml.preserve_quotes = 120, True
    content = yaml.load(text)
    for row in content["rows"]:
        names = [one if isinstance(one, str) else one["name"] for one in row["experiments"]]
        keys = [key for key, _ in numbered([{"row": row["row"], "experiment": name} for name in names])]
        if not found.keys() & set(keys):
            continue
        entries = CommentedSeq()
        for key, entry in zip(keys, row["experiments"], strict=True):
            known = found.get(key)
            if known is not None:
                entry = CommentedMap({"name": entry}) if isinstance(entry, str) else entry
                entry["bounds"] = bounds = CommentedMap(known.model_dump(mode="json"))
                bounds["config"] = DoubleQuotedScalarString(known.config)  # 12e345678901 would be a number
                for name in ("seeds", "values"):
                    bounds[name] = CommentedSeq(bounds[name])
                    bounds[name].fa.set_flow_style()
            entries.append(entry)
        row["experiments"] = entries
    out = io.StringIO()
    yaml.dump(content, out)
    return out.getvalue()


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
