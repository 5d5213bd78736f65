"""A table on its way: what each of its lines resolves to, what is done of it, and the files that show its state."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flowbench import report
from flowbench.config.experiments import config_id, config_sha256, load_experiment
from flowbench.config.schema import Experiment, ForecastData
from flowbench.data.manifest import file_sha256
from flowbench.errors import FlowbenchError, InputError, why
from flowbench.reproduction.sharing import writing
from flowbench.reproduction.watching import Told, Watched, look
from flowbench.runs.folder import RunFolder
from flowbench.system import atomic
from flowbench.system.version import __version__
from flowbench.tables.bounds import numbered
from flowbench.tables.results import done_row, empty_row
from flowbench.tables.shipped import rows_as_shipped
from flowbench.tables.table import Entry, Row, Table

__all__ = ["Agenda", "Ended", "Line", "Pair", "finished", "run_path", "stored"]

Pair = tuple[Experiment[Any, Any], Path]
"""An experiment and its run's folder."""
Ended = tuple[Path, FlowbenchError | None]
"""The folder of a run that has ended, and what went wrong."""


def run_path(out: Path, experiment: Experiment[Any, Any]) -> Path:
    """Return the run folder of an experiment under `out`: a function of name, config, seed and a CSV file's content."""
    name = experiment.name.replace("/", "-")
    return out / "runs" / f"{name}--{config_sha256(experiment)[:12]}{_content(experiment)}--seed{experiment.seed}"


def _content(experiment: Experiment[Any, Any]) -> str:
    """Return digits of the CSV file's content, which the config's hash leaves out as it does every path."""
    data = experiment.data
    if not isinstance(data, ForecastData) or data.csv is None:
        return ""
    try:
        return f"-{file_sha256(Path(data.csv))[:12]}"
    except OSError:  # not here: training says so
        return ""


def finished(run: Path, experiment: Experiment[Any, Any]) -> bool:
    """Return whether a run of this very config is at its end, pictures included."""
    try:
        folder = RunFolder(run)
        # To train what only lacks its pictures is to draw them.
        same = folder.finished and folder.result.get("config_sha256") == config_sha256(experiment)
        return same and not folder.undrawn
    except InputError:
        return False


def stored(folder: Path) -> Mapping[str, Any]:
    """Return the content of a folder's results.json; empty where there is none, or a damaged or foreign one."""
    # No reason to refuse: the run folders are the truth, this file is only their summary.
    try:
        content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    rows = content.get("rows") if isinstance(content, dict) else None
    known = isinstance(rows, list) and all(
        isinstance(row, dict) and {"row", "experiment"} <= row.keys() for row in rows
    )
    return content if known else {}


def _done(content: Mapping[str, Any]) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    """Return the rows of a results.json that have a figure, by `Line.key`."""
    return {key: row for key, row in numbered(content.get("rows", [])) if row.get("status") == "done"}


@dataclass
class Line:
    """One line of the table: an experiment in a row, with what it resolves to for each seed."""

    row: Row
    entry: Entry
    experiments: list[Experiment[Any, Any]]
    runs: list[Path]
    """The folders of its runs, seed by seed."""
    content: dict[str, Any]
    selected: bool
    place: int
    """Among the entries of its row with the same experiment, from 0."""

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is called in results.json."""
        return self.row.row, self.entry.name, self.place

    @property
    def pairs(self) -> list[Pair]:
        """Its experiments with the folders of their runs."""
        return list(zip(self.experiments, self.runs, strict=True))


@dataclass
class Agenda:
    """A table on its way: the lines, and the files that show their state."""

    table: Table
    out: Path
    command: str
    seeds: Sequence[int] | None
    overrides: Sequence[str]
    lines: list[Line] = field(default_factory=list)

    def plan(self, selected: Sequence[Row], stored: Mapping[str, Any]) -> None:
        """Resolve and validate every experiment before anything runs; keep what is done already."""
        before = _done(stored)
        for row in self.table.rows:
            chosen = row in selected
            for place, entry in enumerate(row.experiments):
                experiments = self._resolve(row, entry, chosen)
                content = empty_row(
                    row, entry, experiments[0], status="not_run", reason="not run yet" if chosen else "not asked for"
                )
                content["command"] = self._command(row, chosen)
                runs = [run_path(self.out, experiment) for experiment in experiments]
                same_before = sum(one.name == entry.name for one in row.experiments[:place])
                line = Line(row, entry, experiments, runs, content, chosen, same_before)
                self._keep_done(line, before.get(line.key))
                self.lines.append(line)

    @property
    def results(self) -> dict[str, Any]:
        """The content of results.json."""
        content = {
            "schema": 1,
            "table": self.table.table,
            "title": self.table.title,
            "description": self.table.description,
            "flowbench": __version__,
            "rows": [line.content for line in self.lines],
        }
        return {**content, "rows": rows_as_shipped(content)}

    @property
    def shown(self) -> bool:
        """Whether results.json and the page, which is written last, say what `results` does.

        A kill may have come between the two.
        """
        results, page = self.out / "results.json", self.out / "report.html"
        current = stored(self.out) == self.results
        return current and page.is_file() and page.stat().st_mtime_ns >= results.stat().st_mtime_ns

    def watched(self, told: Mapping[Path, Told] | None = None) -> list[Watched]:
        """What the selected runs are doing; `told` is what their processes say of it themselves."""
        return [watched for line in self.lines if line.selected for watched in self.looked_at(line, told)]

    def watched_from_outside(self) -> list[Watched]:
        """What the selected runs are doing that another process makes; what it leaves out, it says in results.json."""
        rows = stored(self.out).get("rows", [])
        left_out = {(row["row"], row["experiment"]) for row in rows if row.get("status") == "skipped"}
        return [
            replace(one, state="skipped") if one.state == "waiting" and (one.row, one.experiment) in left_out else one
            for one in self.watched()
        ]

    def looked_at(self, line: Line, told: Mapping[Path, Told] | None = None) -> list[Watched]:
        """What the runs of a line are doing."""
        now, known = time.time(), told or {}
        return [look(line.row.row, one, run, now, known.get(run)) for one, run in line.pairs]

    def write(self) -> None:
        """Write results.json and everything that is made of it.

        What another call on this folder has done meanwhile of the lines that this one leaves alone stays in it.
        """
        with writing(self.out):
            before = _done(stored(self.out))
            for line in self.lines:
                if not line.selected:
                    self._keep_done(line, before.get(line.key))
            try:
                atomic.write_json(self.out / "results.json", self.results)
            except OSError as error:
                raise InputError(f"{self.out}: cannot be written: {why(error)}: give another --out") from error
            report.build(self.results, base=self.out, out=self.out, redraw=False)

    @property
    def waiting(self) -> list[Line]:
        """The selected lines without an end; those that other processes have finished are taken first."""
        lines = [line for line in self.lines if line.selected and line.content["status"] == "not_run"]
        return [line for line in lines if not self.take_finished(line)]

    @property
    def uncosted(self) -> list[Line]:
        """The selected lines with a figure, where the table wants costs, whose first run has none yet.

        A run that is kept without its folder is left as it is: what is measured now would hide it.
        """
        wanted = [
            line for line in self.lines if self.table.costs and line.selected and line.content["status"] == "done"
        ]
        first = [(line, RunFolder(line.runs[0])) for line in wanted]
        return [line for line, run in first if run.kept is None and run.costs is None]

    @property
    def unfinished(self) -> list[Pair]:
        """The runs of the selected lines that are not at their end."""
        pairs = [pair for line in self.lines if line.selected for pair in line.pairs]
        return [(experiment, run) for experiment, run in pairs if not finished(run, experiment)]

    def take_finished(self, line: Line) -> bool:
        """Enter the figures of a line if all its runs are finished, and say so."""
        if not all(finished(run, one) for one, run in line.pairs):
            return False
        line.content |= done_row(line.row, line.entry, line.experiments, line.runs, self.out)
        return True

    def _resolve(self, row: Row, entry: Entry, chosen: bool) -> list[Experiment[Any, Any]]:
        overrides = [*entry.overrides, *(self.overrides if chosen else ())]
        seeds = (self.seeds if chosen else None) or entry.seeds
        try:
            changes = [overrides] if seeds is None else [[*overrides, f"seed={seed}"] for seed in seeds]
            experiments = [load_experiment(entry.name, change) for change in changes]
            if chosen:
                row.check_split(experiments[0])
            return experiments
        except InputError as error:
            raise InputError(f"row {row.row}: {error}") from error

    def _command(self, row: Row, chosen: bool) -> str:
        words = ["--only", row.row]
        if chosen and self.seeds:
            words += ["--seeds", ",".join(map(str, self.seeds))]
        return f"{self.command} {shlex.join([*words, *(self.overrides if chosen else ())])}"

    def _keep_done(self, line: Line, earlier: Mapping[str, Any] | None) -> None:
        """Enter the figures of finished runs, or what an earlier call stored of the line where that still holds."""
        if self.take_finished(line) or earlier is None or line.selected:
            return
        # A row that is not asked for keeps the figure of an earlier call with other overrides, and that of runs which
        # did not come along (see `report --keep`) where today's config and seeds are the same.
        same = earlier.get("config"), earlier.get("seeds")
        if same == (config_id(line.experiments[0]), [one.seed for one in line.experiments]) or all(
            RunFolder(self.out / run).finished for run in earlier["runs"]
        ):
            line.content = {**earlier, "note": line.row.note}
