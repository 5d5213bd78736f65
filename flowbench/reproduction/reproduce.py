"""Whole tables: run every experiment of a table that is not done yet, and keep results and report up to date."""

import shlex
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flowbench.data.image_set import data_root
from flowbench.errors import FlowbenchError, InputError, WorkFailedError
from flowbench.reproduction.agenda import Agenda, Ended, Line, Pair, stored
from flowbench.reproduction.downloading import quick_download
from flowbench.reproduction.in_turn import InTurn, Trainer
from flowbench.reproduction.outlook import ending, plan
from flowbench.reproduction.training import trainer_with
from flowbench.reproduction.watching import Told, Watch, watch_until_done
from flowbench.runs.folder import RunFolder
from flowbench.system.interruption import Interrupted
from flowbench.tables.table import called, load_table
from flowbench.tracking import Mirror

__all__ = ["Maker", "failure", "reproduce", "unfinished", "watch"]


class Maker(Protocol):
    """Makes runs: in this process one after the other, in several of this machine, or on a cluster."""

    def run(self, queue: deque[Pair], show: Callable[[], None] = ...) -> Generator[Ended]:
        """Make the runs of the queue, which may grow meanwhile, and yield each that has ended, with what went wrong."""
        ...


def reproduce(
    table: str = "quick",
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
    jobs: int | None = 1,
    progress: bool = False,
    trainer: Trainer | None = None,
    download: Callable[[str], None] | None = None,
    cluster: Maker | None = None,
    again: str = "the same call goes on",
    mirror: Mirror | None = None,
) -> dict[str, Any]:
    """Run the experiments of a table that are not done, and write results.json, table.md, table.csv, report.html.

    The files are rewritten after every run: a killed call leaves a valid state, and the same call goes on. Every run is
    trained with one thread: its figures depend neither on `jobs` nor on the machine's cores.

    Args:
        table: a table's name or the path of its YAML file.
        only: titles of rows or names of data sets, in any case; none: all rows.
        seeds: one run for each; None: the table's or the experiment's own.
        out: the folder of the results [default: results/<table>].
        overrides: `KEY=VALUE`, applied to every selected experiment.
        jobs: runs at a time, each in a process of its own; 1: in this process; None: as many as there are cores, on a
            machine with a GPU one.
        progress: say the plan and each run's end on stderr, and draw bars there.
        trainer: what trains, in this process [default: flowbench.training.loop.train, mirrored to MLflow].
        download: what tries a quick download for an optional row [default: quick_download].
        cluster: what makes the runs instead, elsewhere.
        mirror: follows every run, and the table at its end [default: into MLflow].
        again: how one goes on with a call that was stopped, for the message that says so.
    Returns:
        The content of results.json; `failure` says whether that is an error.
    Raises:
        InputError: unknown table, row or override key; a folder that cannot be written.
        Interrupted: Ctrl-C or SIGTERM; what was being trained is saved.
    """
    loaded = load_table(table)
    folder = out or Path("results") / loaded.table
    agenda = Agenda(loaded, folder, shlex.join(["flowbench", "reproduce", table]), seeds, overrides)
    agenda.plan(loaded.select(only), stored(folder))
    waiting = agenda.waiting
    if not waiting and agenda.shown and not agenda.uncosted:
        return agenda.results
    agenda.write()
    queue = deque({run: (experiment, run) for experiment, run in agenda.unfinished}.values())
    if queue:
        try:
            with ExitStack() as held:
                number = 1 if trainer else _at_a_time(jobs, len(queue))
                followed = held.enter_context(mirror or Mirror())
                maker = cluster or _here(folder, number, trainer, followed, progress)
                told: Mapping[Path, Told] = getattr(maker, "told", {})
                # What is trained in this process draws its own bar.
                drawn = progress and not isinstance(maker, InTurn)
                watch = Watch(lambda: agenda.watched(told), drawn=drawn)
                say = watch.say if progress else _nothing
                for words in plan(agenda, [run for _, run in queue], number):
                    say(words)
                held.enter_context(watch)
                ended = maker.run(queue, watch.draw)
                _make(agenda, waiting, ended, queue, _Fetching(download or quick_download), say)
                if trainer is None:
                    followed.follow(folder)
        except Interrupted as stop:
            # What stopped a training knows its folder, not the call that goes on with the whole table.
            raise Interrupted(f"{folder}: stopped and saved: {again}", stop.signal) from stop
    _measure_costs(agenda)
    return agenda.results


def watch(
    table: str = "quick",
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Show the runs that other processes make for a table, arguments as in `reproduce`, until each has its end."""
    agenda = _looked_at(table, only, seeds, out, overrides)
    watch_until_done(agenda.watched_from_outside, say)


def unfinished(
    table: str = "quick",
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
) -> list[Pair]:
    """Return the runs that `reproduce` would make, arguments as there, and their folders; nothing is written."""
    return _looked_at(table, only, seeds, out, overrides).unfinished


def failure(results: Mapping[str, Any], only: Sequence[str] = ()) -> FlowbenchError | None:
    """Return the error that a finished `reproduce` ends with: runs that failed, or nothing that could be run.

    Args:
        results: what it returned.
        only: what it was asked for; an earlier call's rows are not its business.
    """
    rows = [row for row in results["rows"] if not only or any(called(row, word) for word in only)]
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        first = failed[0]
        return WorkFailedError(f"{len(failed)} of {len(rows)} failed, first {first['experiment']}: {first['reason']}")
    if not any(row["status"] == "done" for row in rows):
        first = next((row for row in rows if row["status"] == "skipped"), rows[0])
        return InputError(f"table {results['table']}: nothing could be run: {first['row']}: {first['reason']}")
    return None


def _looked_at(
    table: str, only: Sequence[str], seeds: Sequence[int] | None, out: Path | None, overrides: Sequence[str]
) -> Agenda:
    loaded = load_table(table)
    agenda = Agenda(loaded, out or Path("results") / loaded.table, "", seeds, overrides)
    agenda.plan(loaded.select(only), {})
    return agenda


def _at_a_time(jobs: int | None, runs: int) -> int:
    from flowbench.system.threads import processes_at_a_time

    return min(jobs or processes_at_a_time(), runs)


def _here(out: Path, number: int, trainer: Trainer | None, mirror: Mirror, progress: bool) -> Maker:
    """Return what makes the runs on this machine: a process for each of several, this one for a single one."""
    if trainer is not None:
        return InTurn(out, trainer)
    if number > 1:
        # Seconds of imports, which a call that finds everything done does not pay.
        from flowbench.reproduction.workers import Workers

        return Workers(out, number, mirror)
    return InTurn(out, trainer_with(mirror, progress=progress))


def _make(
    agenda: Agenda,
    lines: Sequence[Line],
    ended: Generator[Ended],
    queue: deque[Pair],
    fetching: "_Fetching",
    say: Callable[[str], None],
) -> None:
    """Enter the runs into the table as they end, and say so.

    Args:
        agenda: of the table.
        lines: that waited for runs when the queue was made; other processes may have finished some since.
        ended: gives the runs as they end.
        queue: of those to make.
        fetching: gets data that are missing.
        say: takes a line for each end.
    """
    number, total = 0, len(queue)
    for line in lines:
        agenda.take_finished(line)
    with closing(ended):
        for run, outcome in ended:
            error = outcome
            for line in (line for line in lines if run in line.runs):
                if isinstance(outcome, InputError):
                    error = fetching.instead(line, run, outcome)
                    if error is None:
                        queue.append(next(pair for pair in line.pairs if pair[1] == run))
                        break
                if error is not None:
                    status = "skipped" if isinstance(error, InputError) else "failed"
                    line.content |= {"status": status, "reason": str(error)}
                elif line.content["status"] == "not_run":
                    agenda.take_finished(line)
            else:
                number += 1
                line = next(line for line in lines if run in line.runs)
                say(f"run {number} of {total}: {ending(line, run, error)}")
            agenda.write()


def _nothing(_: str) -> None:
    """Say nothing."""


def _measure_costs(agenda: Agenda) -> None:
    """Measure what the table wants to know of its lines' costs, one after the other, when nothing trains beside."""
    for line in agenda.uncosted:
        import torch

        from flowbench.system.threads import one_thread
        from flowbench.throughput.cost import measure_costs

        run = RunFolder(line.runs[0])
        with one_thread():
            # On the processor wherever it was trained: one sheet, one kind of device.
            run.write_costs(measure_costs(run.experiment, torch.device("cpu")))
        agenda.take_finished(line)
        agenda.write()


@dataclass
class _Fetching:
    """Gets the data of rows that may be left out, once each, when a run says that they are missing."""

    download: Callable[[str], None]
    fetched: set[str] = field(default_factory=set)
    retried: set[Path] = field(default_factory=set)

    def instead(self, line: Line, run: Path, error: InputError) -> InputError | None:
        """Return what is wrong with a run after all; None where it is to be tried again."""
        dataset = line.row.dataset
        if line.row.optional != "download" or run in self.retried:
            return error
        # Several runs at a time miss the same data before the first of them has said so.
        if dataset not in self.fetched:
            if (data_root() / dataset).exists():
                return error
            try:
                self.download(dataset)
            except InputError as failed:
                return failed
            self.fetched.add(dataset)
        self.retried.add(run)
        return None
