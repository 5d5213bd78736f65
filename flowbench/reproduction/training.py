"""The trainer of a table's runs: one thread each, whatever the machine has, so that no figure depends on that."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbench.config.schema import Experiment
from flowbench.reproduction.in_turn import Trainer
from flowbench.runs.folder import RunFolder
from flowbench.tracking import Mirror

__all__ = ["trainer_with"]


def trainer_with(mirror: Mirror, *, progress: bool = False) -> Trainer:
    """Return what trains a run, or goes on with it.

    Args:
        mirror: follows every run.
        progress: draw a bar on stderr.
    """

    def train_it(experiment: Experiment[Any, Any], run: Path) -> Mapping[str, Any]:
        # Seconds of imports, which a call that finds everything done does not pay.
        from flowbench.system.threads import one_thread
        from flowbench.training.loop import train

        with one_thread():
            return train(experiment, run, resume=RunFolder(run).exists, mirror=mirror, progress=progress)

    return train_it
