"""What lies in a run's folder: what `flowbench.Run` knows, and all that measuring and comparing need of it."""

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from flowbench.config.registry import image_sets, series_sets
from flowbench.config.schema import Experiment
from flowbench.data.sets.own import OWN
from flowbench.errors import InputError
from flowbench.runs.folder import RunFolder
from flowbench.system.progress import quietly
from flowbench.tasks.loading import load_run as load_model

__all__ = ["StoredRun", "check_own_data"]


class StoredRun:
    """A run as it is stored.

    Args:
        path: the run folder, or an exported one.

    Raises:
        InputError: there is no run.
    """

    def __init__(self, path: str | Path) -> None:
        self._folder = RunFolder(Path(path))
        if not self._folder.exists:
            raise InputError(f"{path}: holds no run")

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def experiment(self) -> Experiment[Any, Any]:
        """What was trained."""
        return self._folder.experiment

    @property
    def result(self) -> dict[str, Any]:
        """The content of `result.json`; InputError while the run is not finished."""
        return self._folder.result

    @property
    def metrics(self) -> pd.DataFrame:
        """A row a logged step: `step`, `epoch`, `time` and values such as `train/bits_per_dim`."""
        return pd.DataFrame(self._folder.metrics())

    @property
    def figures(self) -> dict[str, Path]:
        """The pictures that are drawn, by file name without its ending."""
        return {path.stem: path for path in sorted(self._folder.figures.glob("*.*")) if path.suffix in _PICTURES}

    @cached_property
    def model(self) -> nn.Module:
        """The model in evaluation mode, with the weights and batch statistics that the run reports."""
        with quietly():
            return load_model(self.path)


def check_own_data(folder: RunFolder) -> None:
    """Raise InputError where a run was trained on arrays or a frame that this process was not given."""
    name = folder.experiment.data.name
    if name is not None and name.startswith(OWN) and name not in image_sets and name not in series_sets:
        raise InputError(f"{folder.path}: was trained on own data that no file holds: give them again as data=")


_PICTURES = {".png", ".svg", ".webp"}
