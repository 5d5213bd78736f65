"""Rows of a shipped table with the table's own settings: these are nobody's own, though no preset carries them."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from flowbench.config.experiments import config_id, load_experiment, shipped_folder
from flowbench.errors import InputError
from flowbench.tables.bounds import Key, numbered
from flowbench.tables.table import load_table

__all__ = ["rows_as_shipped"]


def rows_as_shipped(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a results.json: those with the settings of their shipped table are no longer `custom`.

    A run tells by its preset whose settings it has; ETT's experiments have none, since their settings are part of the
    hashes of stored results. They get the table's badge where it has one (`quick`), and otherwise none.
    """
    shipped = _shipped(str(results["table"]))
    return [_as_shipped(row, *shipped.get(key, (None, None))) for key, row in numbered(results["rows"])]


def _as_shipped(row: Mapping[str, Any], config: str | None, preset: str | None) -> dict[str, Any]:
    if config is None or row.get("config") != config or "custom" not in row["badges"]:
        return dict(row)
    badges = [preset if badge == "custom" else badge for badge in row["badges"]]
    return {**row, "badges": [badge for badge in badges if badge], "budget": preset or row["budget"]}


@cache
def _shipped(table: str) -> dict[Key, tuple[str, str | None]]:
    """Return, for the entries of a shipped table that are no whole presets, their config's id and the table's badge."""
    path = shipped_folder() / "tables" / f"{table}.yaml"
    if not path.is_file():
        return {}
    loaded = load_table(str(path))
    lines = [
        {"row": row.row, "experiment": entry.name, "overrides": entry.overrides}
        for row in loaded.rows
        for entry in row.experiments
    ]
    found: dict[Key, tuple[str, str | None]] = {}
    for key, line in numbered(lines):
        try:
            file = shipped_folder() / f"{line['experiment']}.yaml"
            experiment = load_experiment(str(file), line["overrides"])
        except InputError:
            continue
        # A preset that the table itself changes is no preset any more, and nobody's own either.
        if experiment.preset is None or line["overrides"]:
            found[key] = (config_id(experiment), loaded.preset)
    return found
