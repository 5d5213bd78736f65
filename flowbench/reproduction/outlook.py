"""What a table says on stderr before and while it is made: the plan, and a line for each run that has ended."""

import heapq
from collections.abc import Sequence
from pathlib import Path

from flowbench.config.metric_words import value_in_words
from flowbench.errors import FlowbenchError, InputError
from flowbench.report.formats import unit
from flowbench.reproduction.agenda import Agenda, Line
from flowbench.runs.folder import RunFolder
from flowbench.system.durations import in_words
from flowbench.system.load import busy

__all__ = ["ending", "plan"]


def plan(agenda: Agenda, runs: Sequence[Path], at_a_time: int) -> list[str]:
    """Return what will be made: rows, seeds, and how long it takes where the table knows it.

    Args:
        agenda: the planned table.
        runs: the folders of the runs to make, in their order.
        at_a_time: how many are made side by side.
    """
    waiting = set(runs)
    lines = [line for line in agenda.lines if line.selected and waiting & set(line.runs)]
    costs = {run: cost for line in lines for run, cost in _costs(agenda, line).items() if run in waiting}
    side_by_side = f", {at_a_time} at a time" if min(at_a_time, len(runs)) > 1 else ""
    whole = _expected([costs[run] for run in runs], at_a_time)
    if whole is None:
        whole = f"how long is not known here: {agenda.command} --dry-run measures it"
    crowd = busy(at_a_time)
    warned = [] if crowd is None else [f"  this machine is busy already ({crowd}): expect it to take longer"]
    said = [f"table {agenda.table.table}: {_counted(len(runs), 'run')} to make{side_by_side}; {whole}", *warned]
    for row in dict.fromkeys(line.row.row for line in lines):
        mine = [line for line in lines if line.row.row == row]
        seeds = sorted({one.seed for line in mine for one in line.experiments})
        named = ", ".join(map(str, seeds))
        said.append(
            f"  {row}: {_counted(len(mine), 'experiment')}, seed{'' if len(seeds) == 1 else 's'} {named}"
        )  # fmt: skip
    return said


def ending(line: Line, run: Path, error: FlowbenchError | None) -> str:
    """Return the line that stays when a run of `line` has ended: its figure and seconds, or what went wrong."""
    folder = RunFolder(run)
    seed = next((one.seed for one, path in line.pairs if path == run), None)
    name = f"{line.row.row}, {line.entry.name}, seed {seed}"
    if error is not None:
        return f"{name}: {'skipped' if isinstance(error, InputError) else 'failed'}: {error}"
    try:
        result = folder.result
        metric = result["metrics"][line.row.split][line.row.metric]
        what = "" if metric.get("unit") else f" {unit(line.row.metric)}"
        return f"{name}: {value_in_words(metric)}{what}, {in_words(result['train_seconds'])}"
    except (FlowbenchError, KeyError, TypeError):
        return f"{name}: done"


def _costs(agenda: Agenda, line: Line) -> dict[Path, float | None]:
    """Return the seconds that each run of a line still takes; None where nobody has measured them."""
    seconds = None if agenda.overrides or line.entry.overrides else line.entry.seconds
    progress = {path: one.progress for path, one in zip(line.runs, agenda.looked_at(line), strict=True)}
    return {run: None if seconds is None else seconds * (1 - part) for run, part in progress.items()}


def _expected(costs: Sequence[float | None], at_a_time: int) -> str | None:
    """Return how long the runs take in their order, each begun when a place is free; None: not known."""
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return None
    places = [0.0] * min(at_a_time, len(known))
    for cost in known:
        heapq.heapreplace(places, places[0] + cost)
    return f"about {in_words(max(places))} where a core is free for each"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
