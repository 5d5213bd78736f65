"""Runs one after the other, in this process."""

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from flowbench.config.schema import Experiment
from flowbench.errors import BusyError, FlowbenchError, InputError, WorkFailedError, in_words
from flowbench.reproduction.agenda import Ended, Pair, finished
from flowbench.reproduction.sharing import claim
from flowbench.system.progress import numbered

__all__ = ["InTurn", "Trainer"]

Trainer = Callable[[Experiment[Any, Any], Path], Mapping[str, Any]]
"""Trains an experiment in a folder, or goes on with what lies there: `training.train` with `resume`."""

POLL_SECONDS = 1.0


class InTurn:
    """Makes one run after the other; one that another process has claimed is left to it, or taken over when it dies.

    Args:
        out: the folder of the table's results.
        trainer: what trains.
    """

    def __init__(self, out: Path, trainer: Trainer) -> None:
        self._out, self._trainer = out, trainer

    def run(self, queue: deque[Pair], show: Callable[[], None] = lambda: None) -> Generator[Ended]:
        """Make the runs of the queue, which may grow meanwhile, and yield each, with what went wrong."""
        elsewhere, ended = 0, 0
        while queue:
            experiment, run = queue.popleft()
            with numbered(f"run {ended + 1} of {ended + 1 + len(queue)}"):
                made, outcome = self._make(experiment, run)
            if made:
                elsewhere, ended = 0, ended + 1
                yield run, outcome
                continue
            queue.append((experiment, run))
            elsewhere += 1
            if elsewhere == len(queue):
                elsewhere = 0
                show()
                time.sleep(POLL_SECONDS)

    def _make(self, experiment: Experiment[Any, Any], run: Path) -> tuple[bool, FlowbenchError | None]:
        """Return whether the run has come to its end, and the error that ended it; False where another has it."""
        try:
            with claim(self._out, run) as mine:
                if mine and not finished(run, experiment):
                    self._trainer(experiment, run)
                return mine, None
        except BusyError:  # a job of a cluster, or somebody's `train`, which claim nothing
            return False, None
        except (InputError, WorkFailedError) as error:
            return True, error
        except Exception as error:  # whatever it is, the other runs go on
            return True, WorkFailedError(in_words(error))
