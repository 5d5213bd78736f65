"""A table in MLflow: one run with its figures and its files, which the runs of its rows name as their parent."""

import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from mlflow.entities import Metric, RunTag

from flowbench.errors import InputError
from flowbench.system.credentials import without_credentials
from flowbench.tracking.content import entity_name, finite, read_object, text
from flowbench.tracking.copying import UID_TAG, RunCopy, experiment_called
from flowbench.tracking.state import MirrorState, new_uid, read_state, recorded_bytes, write_state
from flowbench.tracking.store import log_new

__all__ = ["Copy", "TableCopy", "copy_of"]

FILES = ("results.json", "table.md", "table.csv", "table.tex", "report.html")


class Copy(Protocol):
    """The copy in MLflow of one folder."""

    note: str

    def update(self) -> None:
        """Bring what grows up to date."""

    def sample(self, values: Mapping[str, float]) -> None:
        """Keep a sample of the machine's state."""

    def finish(self) -> str:
        """Bring all of it up to date; return MLflow's run id."""

    def close(self) -> None:
        """Let other processes copy the folder."""


def copy_of(folder: Path, client: Any, uri: str, *, live: bool) -> Copy:
    """Return the copy of a run's folder, or of a table's."""
    if (folder / "results.json").is_file():
        return TableCopy(folder, client, uri)
    return RunCopy(folder, client, uri, live=live)


class TableCopy:
    """The copy in MLflow of a table's folder, as `reproduce` writes it.

    Args:
        folder: with `results.json`.
        client: an `MlflowClient`.
        uri: where it leads.
    """

    def __init__(self, folder: Path, client: Any, uri: str) -> None:
        self._folder, self._client, self._uri = folder, client, uri
        self.note = ""

    def update(self) -> None:
        """Nothing: a table is copied when it is done."""

    def sample(self, values: Mapping[str, float]) -> None:
        """Nothing: its runs have the machine's state."""

    def close(self) -> None:
        """Nothing is held."""

    def finish(self) -> str:
        """Bring figures, files and the runs of the rows up to date; return MLflow's run id.

        Raises:
            InputError: no readable `results.json`.
        """
        results = read_object(self._folder / "results.json")
        if results is None or not isinstance(results.get("rows"), list):
            raise InputError(f"{self._folder / 'results.json'}: no results of flowbench reproduce")
        covered, state = recorded_bytes(self._folder), read_state(self._folder)
        experiment = experiment_called(f"tables/{text(results.get('table', 'table'), 200)}", self._client, self._uri)
        uid = new_uid() if state is None else state.uid
        known = self._client.search_runs([experiment], f"tags.`{UID_TAG}` = '{uid}'", max_results=1)
        name = text(self._folder.resolve().name, 250)
        run_id = (
            known[0] if known else self._client.create_run(experiment, tags={UID_TAG: uid}, run_name=name)
        ).info.run_id
        if state is None:
            # Whatever fails from here on, the next attempt finds this run.
            self._write_state(uid, run_id, 0)
        rows = [row for row in results["rows"] if isinstance(row, dict)]
        written = int((self._folder / "results.json").stat().st_mtime * 1000)
        log_new(_metrics(rows, written), self._client, run_id)
        self._client.log_batch(run_id, tags=_tags(results, rows), synchronous=True)
        for file in FILES:
            if (self._folder / file).is_file():
                self._client.log_artifact(run_id, str(self._folder / file))
        for run in (run for row in rows for run in row.get("runs", [])):
            child = read_state(self._folder / str(run))
            if child is not None and child.tracking_uri == without_credentials(self._uri):
                self._client.set_tag(child.run_id, "mlflow.parentRunId", run_id)
        with redirect_stdout(sys.stderr):
            self._client.set_terminated(run_id, "FINISHED")
        self._write_state(uid, run_id, covered)
        return str(run_id)

    def _write_state(self, uid: str, run_id: str, covered: int) -> None:
        write_state(self._folder, MirrorState(uid, without_credentials(self._uri), run_id, covered))


def _metrics(rows: list[dict[str, Any]], moment: int) -> list[Metric]:
    """Return each row's figure as `<row>/<experiment>`, with its `_stderr` and `_seed_std`, at a time in ms."""
    values: dict[str, Any] = {}
    seen: Counter[str] = Counter()
    for row in rows:
        name = f"{row.get('row')}/{row.get('experiment')}"
        # With other overrides an experiment may stand in a row once more.
        seen[name] += 1
        name += f"-{seen[name]}" if seen[name] > 1 else ""
        values |= {name: row.get("value"), f"{name}_stderr": row.get("stderr"), f"{name}_seed_std": row.get("seed_std")}
    return [Metric(entity_name(name), value, moment, 0) for name, value in finite(values).items()]


def _tags(results: Mapping[str, Any], rows: list[dict[str, Any]]) -> list[RunTag]:
    done = sum(row.get("status") == "done" for row in rows)
    told = {"table": results.get("table"), "rows": f"{done} of {len(rows)} done", "version": results.get("flowbench")}
    return [RunTag(f"flowbench.{key}", text(value, 500)) for key, value in told.items()]
