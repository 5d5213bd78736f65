"""A run's pictures, drawn from its folder: nothing but the checkpoint, the config and the data set is needed."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flowbench.config.registry import figure_kinds
from flowbench.errors import FlowbenchError, InputError, in_words
from flowbench.figures.kinds import NotDrawableError, Subject
from flowbench.runs.folder import RunFolder
from flowbench.runs.same_data import check_same_data
from flowbench.system.device import default_device
from flowbench.system.progress import counted
from flowbench.tasks.loading import load_run, reported_step, stopped_at

__all__ = ["Drawn", "draw_at_end", "draw_run", "kinds_of"]


class Drawn(NamedTuple):
    """What came of drawing."""

    paths: list[Path]
    """The pictures, in the order of their kinds."""
    left_out: list[str]
    """One line for each kind that does not exist for this run, or failed."""


def kinds_of(run: RunFolder) -> list[str]:
    """Return the kinds of figures that there are for a run's sort of experiment, by name."""
    experiment = run.experiment
    of = [experiment.kind, *(["distributions"] if getattr(experiment.model, "distributions", False) else [])]
    return [kind for kind in figure_kinds if figure_kinds[kind].of in of]


def draw_run(run: RunFolder, kinds: Sequence[str] | None = None) -> Drawn:
    """Draw pictures of a run from its checkpoint: the same run gives the same pictures.

    Args:
        run: with a checkpoint.
        kinds: which; None: all that the run allows, the others left out with the reason.

    Raises:
        InputError: no such kind, or one of those asked for by name does not exist for this run; the run's data lie
            here with another content.
        WorkFailedError: one of those asked for by name cannot be drawn, such as samples that are not numbers.
    """
    check_same_data(run)
    known = kinds_of(run)
    for kind in kinds or ():
        if kind not in known:
            # An unknown name gets the nearest one; a known one belongs to the other sort of experiment.
            of = figure_kinds[kind].of
            sort = "forecast that gives distributions" if of == "distributions" else f"{of} experiment"
            raise InputError(f"--kind {kind}: is drawn of a {sort}; here: {', '.join(known) or 'none'}")
    drawn = Drawn([], [])
    stopped = stopped_at(run)
    outcomes = []
    for kind, outcome in _draw(run, kinds or known, FlowbenchError, "" if stopped is None else str(stopped)):
        outcomes.append((kind, outcome))
        if isinstance(outcome, Path):
            drawn.paths.append(outcome)
        elif kinds is None:
            drawn.left_out.append(f"{kind}: {outcome}")
        else:
            raise outcome
    if kinds is None:
        run.note_drawn(_failures((kind, outcome) for kind, outcome in outcomes if figure_kinds[kind].at_end))
    return drawn


def draw_at_end(run: RunFolder) -> list[str]:
    """Draw what every finished training shows, and return a line for each picture that failed.

    A picture that cannot be drawn, whatever the reason, keeps none of the others from being drawn.
    """
    return _failures(_draw(run, [kind for kind in kinds_of(run) if figure_kinds[kind].at_end], Exception))


def _failures(outcomes: Iterable[tuple[str, Path | Exception]]) -> list[str]:
    return [
        f"figure {kind}: {in_words(outcome)}"
        for kind, outcome in outcomes
        if isinstance(outcome, Exception) and not isinstance(outcome, NotDrawableError)
    ]


def _draw(
    run: RunFolder, kinds: Sequence[str], survived: type[Exception], stopped: str = ""
) -> Iterator[tuple[str, Path | Exception]]:
    """Draw kind by kind; an error that is `survived` is the outcome of its kind, another one ends the drawing."""
    if not kinds:
        return
    device = default_device()
    subject = Subject(run, run.experiment, load_run(run.path).to(device), reported_step(run), device, stopped)
    for kind in counted(kinds, "drawing", len(kinds)):
        try:
            yield kind, figure_kinds[kind].draw(subject)
        except survived as error:
            yield kind, error
