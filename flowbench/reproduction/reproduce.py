"""Whole tables: run every experiment of a table that is not done yet, and keep results and report up to date."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowbench import report
from flowbench.config.experiments import config_id, config_sha256, load_experiment
from flowbench.config.schema import Experiment
from flowbench.data.image_set import data_root
from flowbench.errors import FlowbenchError, InputError, WorkFailedError
from flowbench.reproduction.sharing import claim
from flowbench.reproduction.submission import Jobs
from flowbench.reproduction.watching import Watch, Watched, look, watch_until_done
from flowbench.runs.folder import RunFolder
from flowbench.system import atomic
from flowbench.system.version import __version__
from flowbench.tables.results import done_row, empty_row
from flowbench.tables.table import Entry, Row, Table, load_table

__all__ = ["Trainer", "failure", "quick_download", "reproduce", "run_path", "unfinished", "watch"]

Trainer = Callable[[Experiment[Any, Any], Path], Mapping[str, Any]]
"""Trains an experiment in a folder, or goes on with what lies there: `training.train` with `resume`."""

DOWNLOAD_SECONDS = 10
POLL_SECONDS = 1.0


def reproduce(
    table: str = "quick",
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
    progress: bool = False,
    trainer: Trainer | None = None,
    download: Callable[[str], None] | None = None,
    jobs: Jobs | None = None,
    shown: bool = False,
) -> dict[str, Any]:
    """Run the experiments of a table that are not done, and write results.json, table.md, table.csv, report.html.

    The files are rewritten after every run: a killed call leaves a valid state, and the same call goes on.

    Args:
        table: a table's name or the path of its YAML file.
        only: titles of rows or names of data sets, in any case; none: all rows.
        seeds: one run for each; None: the table's or the experiment's own.
        out: the folder of the results [default: results/<table>].
        overrides: `KEY=VALUE`, applied to every selected experiment.
        progress: draw training bars on stderr.
        trainer: what trains [default: flowbench.training.loop.train, mirrored to MLflow].
        download: what tries a quick download for an optional row [default: quick_download].
        jobs: where each run is submitted to as a job of its own; None: this process runs them.
        shown: with `jobs`, show rows, progress and time left on stderr.
    Returns:
        The content of results.json; `failure` says whether that is an error.
    Raises:
        InputError: unknown table, row or override key; a folder that cannot be written.
    """
    loaded = load_table(table)
    folder = out or Path("results") / loaded.table
    selected = loaded.select(only)
    job = _Job(loaded, folder, shlex.join(["flowbench", "reproduce", table]), seeds, overrides)
    job.plan(selected, _stored(folder))
    if jobs is not None:
        with Watch(job.watched if shown else list) as show:
            _submit_all(job, jobs, show)
    elif trainer is not None:
        _run_all(job, trainer, download or quick_download)
    else:
        with _Training(progress) as train:
            _run_all(job, train, download or quick_download)
    return job.results


def watch(
    table: str = "quick",
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Show the runs that other processes make for a table, arguments as in `reproduce`, until all are done."""
    loaded = load_table(table)
    job = _Job(loaded, out or Path("results") / loaded.table, "", seeds, overrides)
    job.plan(loaded.select(only), {})
    watch_until_done(job.watched, say)


def unfinished(
    table: str = "quick",
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
) -> list[tuple[Experiment[Any, Any], Path]]:
    """Return the runs that `reproduce` would make, arguments as there, and their folders; nothing is written."""
    loaded = load_table(table)
    job = _Job(loaded, out or Path("results") / loaded.table, "", seeds, overrides)
    job.plan(loaded.select(only), {})
    pairs = [
        pair for line in job.lines if line.selected for pair in zip(line.experiments, line.runs(job.out), strict=True)
    ]
    return [(experiment, run) for experiment, run in pairs if not _finished(run, experiment)]


def failure(results: Mapping[str, Any]) -> FlowbenchError | None:
    """Return the error that a finished `reproduce` ends with: runs that failed, or nothing that could be run."""
    rows = results["rows"]
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        first = failed[0]
        return WorkFailedError(f"{len(failed)} of {len(rows)} failed, first {first['experiment']}: {first['reason']}")
    if not any(row["status"] == "done" for row in rows):
        first = next((row for row in rows if row["status"] == "skipped"), rows[0])
        return InputError(f"table {results['table']}: nothing could be run: {first['row']}: {first['reason']}")
    return None


def run_path(out: Path, experiment: Experiment[Any, Any]) -> Path:
    """Return the run folder of an experiment under `out`: a function of name, config and seed."""
    name = experiment.name.replace("/", "-")
    return out / "runs" / f"{name}--{config_sha256(experiment)[:12]}--seed{experiment.seed}"


def quick_download(dataset: str) -> None:
    """Try once to get a data set within ten seconds in all; a failure is remembered, and later calls fail at once.

    Raises:
        InputError: it could not be had, with the command that gets it without hurry.
    """
    way_out = f"get it with `flowbench data prepare {dataset} --download`"
    if os.environ.get("FLOWBENCH_OFFLINE") == "1":
        raise InputError(f"{dataset} is not here and FLOWBENCH_OFFLINE=1: {way_out}")
    memory = data_root() / f".{dataset}-not-downloaded"
    if memory.exists():
        raise InputError(f"{dataset} is not here and an earlier quick download failed: {way_out}")
    command = [sys.executable, "-m", "flowbench", "data", "prepare", dataset, "--download"]
    try:
        # A process of its own, since a name look-up that hangs can only be killed.
        done = subprocess.run(command, capture_output=True, timeout=DOWNLOAD_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        problem = f"was not downloaded within {DOWNLOAD_SECONDS} seconds"
    else:
        if done.returncode == 0:
            return
        problem = "could not be downloaded"
    atomic.write_text(memory, problem + "\n")
    raise InputError(f"{dataset} {problem}: {way_out}")


class _Training:
    """The real trainer, with one MLflow mirror for all runs; nothing is imported before the first training."""

    def __init__(self, progress: bool) -> None:
        self._progress = progress
        self._mirror: Any = None

    def __enter__(self) -> Trainer:
        return self._train

    def __exit__(self, *exception: Any) -> None:
        if self._mirror is not None:
            self._mirror.__exit__(*exception)

    def _train(self, experiment: Experiment[Any, Any], run: Path) -> Mapping[str, Any]:
        from flowbench.tracking import Mirror
        from flowbench.training.loop import train

        if self._mirror is None:
            self._mirror = Mirror().__enter__()
        return train(experiment, run, resume=RunFolder(run).exists, mirror=self._mirror, progress=self._progress)


@dataclass
class _Line:
    """One line of the table: an experiment in a row, with what it resolves to for each seed."""

    row: Row
    entry: Entry
    experiments: list[Experiment[Any, Any]]
    content: dict[str, Any]
    selected: bool

    def runs(self, out: Path) -> list[Path]:
        return [run_path(out, experiment) for experiment in self.experiments]


@dataclass
class _Job:
    """A table on its way: the lines, and the files that show their state."""

    table: Table
    out: Path
    command: str
    seeds: Sequence[int] | None
    overrides: Sequence[str]
    lines: list[_Line] = field(default_factory=list)

    def plan(self, selected: Sequence[Row], stored: Mapping[str, Any]) -> None:
        """Resolve and validate every experiment before anything runs; keep what is done already."""
        for row in self.table.rows:
            chosen = row in selected
            for entry in row.experiments:
                experiments = self._resolve(row, entry, chosen)
                content = empty_row(
                    row, entry, experiments[0], status="not_run", reason="not run yet" if chosen else "not asked for"
                )
                line = _Line(row, entry, experiments, content, chosen)
                line.content["command"] = self._command(row, chosen)
                self._keep_done(line, stored)
                self.lines.append(line)

    @property
    def results(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "table": self.table.table,
            "title": self.table.title,
            "description": self.table.description,
            "flowbench": __version__,
            "rows": [line.content for line in self.lines],
        }

    def watched(self) -> list[Watched]:
        """What the selected runs are doing."""
        now = time.time()
        return [
            look(line.row.row, one, run, now)
            for line in self.lines
            if line.selected
            for one, run in zip(line.experiments, line.runs(self.out), strict=True)
        ]

    def write(self) -> None:
        """Write results.json and everything that is made of it."""
        try:
            atomic.write_json(self.out / "results.json", self.results)
        except OSError as error:
            raise InputError(f"{self.out}: cannot be written: {error.strerror}: give another --out") from error
        report.build(self.results, base=self.out, out=self.out, redraw=False)

    @property
    def waiting(self) -> list[_Line]:
        """The selected lines without an end; those that other processes have finished are taken first."""
        lines = [line for line in self.lines if line.selected and line.content["status"] == "not_run"]
        return [line for line in lines if not self.take_finished(line)]

    def take_finished(self, line: _Line) -> bool:
        """Enter the figures of a line if all its runs are finished, and say so."""
        if not all(_finished(run, one) for run, one in zip(line.runs(self.out), line.experiments, strict=True)):
            return False
        self.take(line)
        return True

    def take(self, line: _Line) -> None:
        """Enter the figures of a line whose runs are all finished."""
        line.content |= done_row(line.row, line.entry, line.experiments, line.runs(self.out), self.out)

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

    def _keep_done(self, line: _Line, stored: Mapping[str, Any]) -> None:
        if all(_finished(path, one) for path, one in zip(line.runs(self.out), line.experiments, strict=True)):
            self.take(line)
            return
        earlier = [
            row
            for row in stored.get("rows", [])
            if (row.get("row"), row.get("experiment"), row.get("status")) == (line.row.row, line.entry.name, "done")
        ]
        if not earlier or line.selected:
            return
        # A row that is not asked for keeps the figure of an earlier call with other overrides, and that of runs which
        # did not come along (see `report --keep`) where today's config and seeds are the same.
        same = earlier[0].get("config"), earlier[0].get("seeds")
        if same == (config_id(line.experiments[0]), [one.seed for one in line.experiments]) or all(
            RunFolder(self.out / run).finished for run in earlier[0]["runs"]
        ):
            line.content = {**earlier[0], "note": line.row.note}


def _run_all(job: _Job, trainer: Trainer, download: Callable[[str], None]) -> None:
    """Run what is not done; what another process has claimed is left to it, or taken over when that one dies."""
    waiting = job.waiting
    if not waiting and _stored(job.out) == job.results and _shown(job.out):
        return
    job.write()
    while waiting:
        trained = [_advance(job, line, trainer, download) for line in waiting]
        waiting = job.waiting
        if waiting and not any(trained):
            time.sleep(POLL_SECONDS)  # all that is left is claimed elsewhere
        elif not waiting:
            job.write()


def _advance(job: _Job, line: _Line, trainer: Trainer, download: Callable[[str], None]) -> bool:
    """Train the line's runs that nobody else has claimed; return whether there was one, or the line came to its end."""
    trained = False
    try:
        for experiment, run in zip(line.experiments, line.runs(job.out), strict=True):
            with claim(job.out, run) as mine:
                if mine and not _finished(run, experiment):
                    trained = True
                    _train(line, experiment, run, trainer, download)
        if not job.take_finished(line):
            return trained
    except InputError as error:
        line.content |= {"status": "skipped", "reason": str(error)}
    except WorkFailedError as error:
        line.content |= {"status": "failed", "reason": str(error)}
    job.write()
    return True


def _submit_all(job: _Job, jobs: Jobs, show: Callable[[], None]) -> None:
    """Let jobs on other machines run what is not done, and enter their results as they come."""
    waiting = job.waiting
    job.write()
    runs = {run: line for line in waiting for run in line.runs(job.out)}
    pairs = [pair for line in waiting for pair in zip(line.experiments, line.runs(job.out), strict=True)]
    for run, outcome in jobs.run([(one, run) for one, run in pairs if not _finished(run, one)], show):
        line = runs[run]
        if outcome is not None:
            status = "skipped" if isinstance(outcome, InputError) else "failed"
            line.content |= {"status": status, "reason": str(outcome)}
        elif line.content["status"] == "not_run":
            job.take_finished(line)
        job.write()


def _train(
    line: _Line, experiment: Experiment[Any, Any], run: Path, trainer: Trainer, download: Callable[[str], None]
) -> None:
    try:
        trainer(experiment, run)
    except InputError:
        if line.row.optional != "download" or (data_root() / line.row.dataset).exists():
            raise
        download(line.row.dataset)
        trainer(experiment, run)


def _finished(run: Path, experiment: Experiment[Any, Any]) -> bool:
    try:
        folder = RunFolder(run)
        # To train what only lacks its pictures is to draw them.
        same = folder.finished and folder.result.get("config_sha256") == config_sha256(experiment)
        return same and not folder.undrawn
    except InputError:
        return False


def _shown(folder: Path) -> bool:
    """Whether the page, which is written last, is of the results as they are: a kill may have come between the two."""
    results, page = folder / "results.json", folder / "report.html"
    return page.is_file() and page.stat().st_mtime_ns >= results.stat().st_mtime_ns


def _stored(folder: Path) -> Mapping[str, Any]:
    # Damaged or foreign files are no reason to refuse: the run folders are the truth, this file is only their summary.
    try:
        content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
