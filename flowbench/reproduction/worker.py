"""A helper that makes runs: `python -m flowbench.reproduction.worker`, started by `flowbench.reproduction.workers`.

A request is `{"experiment": …, "out": FOLDER, "run": FOLDER}`; the answer is what became of the run: `done`, `claimed`
(another process has it), or, with the reason, `skipped` or `failed`, as the row of the table then says. Before it come
answers of what is being done, `doing`, and the `part` of it (0 to 1).
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowbench.config.experiments import experiment_of
from flowbench.config.extensions import import_inherited
from flowbench.errors import BusyError, InputError, in_words
from flowbench.reproduction.agenda import finished
from flowbench.reproduction.in_turn import Trainer
from flowbench.reproduction.sharing import claim
from flowbench.reproduction.training import trainer_with
from flowbench.system.helpers import Served
from flowbench.system.interruption import Interrupted
from flowbench.system.progress import telling
from flowbench.tracking.relayed import RelayedMirror

__all__ = ["main"]


def main() -> int:
    """Make the runs that are asked for until the parent lets go, or this process is told to stop."""
    import_inherited()
    served = Served()
    trainer = trainer_with(RelayedMirror(served.answer))
    try:
        for request in served:
            served.answer(**_make(request, trainer, lambda what, part: served.answer(doing=what, part=part)))
    except Interrupted as stop:
        return stop.exit_code
    return 0


def _make(request: dict[str, Any], trainer: Trainer, tell: Callable[[str, float], None]) -> dict[str, str]:
    run, out = Path(request["run"]), Path(request["out"])
    try:
        experiment = experiment_of(request["experiment"], run)
        with claim(out, run) as mine:
            if not mine:
                return {"state": "claimed"}
            if not finished(run, experiment):
                with telling(tell):
                    trainer(experiment, run)
            return {"state": "done"}
    except BusyError:  # a job of a cluster, or somebody's `train`, which claim nothing
        return {"state": "claimed"}
    except InputError as error:
        return {"state": "skipped", "reason": str(error)}
    except Exception as error:  # whatever it is, the other runs go on
        return {"state": "failed", "reason": in_words(error)}


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # The thread that reads stdin must not hold up the exit.
    os._exit(status)
