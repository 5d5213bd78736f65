"""Studies without trainings: a trainer that is a formula, in run folders of the test's own."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import Study

from flowbench.comparison.study import Outcome, outcome_of
from flowbench.config.schema import Experiment
from flowbench.runs.folder import RunFolder
from flowbench.tracking import Mirror
from flowbench.tuning import trial as trial_module
from flowbench.tuning import tune
from flowbench.tuning.joining import find_study, study_folder

__all__ = ["SPACE", "TUNE", "Formula", "Lab", "formula", "lab"]

SPACE = """
name: real_nvp/searched
kind: density
data: {name: digits, batch_size: 64}
model: {name: real_nvp, scales: 2, residual_blocks: 1, features: 8}
train: {steps: 40, validate_every: 10}
"""
TUNE = "tune: {model.residual_blocks: {int: [1, 4]}, model.features: {categorical: [4, 8, 16]}}"


@dataclass
class Formula:
    """Trains nothing: bits/dim fall to 2 + |blocks − 3| + 1/features + lr, the same for the same config."""

    seen: list[tuple[Any, ...]] = field(default_factory=list)
    at: dict[int, BaseException | Callable[[], None]] = field(default_factory=dict)
    """What happens in the middle of the n-th training: an error, or a call."""
    resumed: int = 0

    def __call__(self, experiment: Experiment[Any, Any], path: Path, **options: Any) -> dict[str, Any]:
        run, model = RunFolder(path), experiment.model
        self.resumed += run.exists
        assert options["resume"] == run.exists
        self.seen.append((model.residual_blocks, model.features, experiment.optim.lr))
        if not run.exists:
            run.begin(experiment, {"data": {"name": "digits"}})
        value = 2 + abs(model.residual_blocks - 3) + 1 / model.features + experiment.optim.lr
        done = len(run.metrics())
        for number in range(done + 1, 5):
            if number == 3 and len(self.seen) in self.at:
                event = self.at.pop(len(self.seen))
                if isinstance(event, BaseException):
                    raise event
                event()
            figures = {"bits_per_dim": value + 4 - number}
            run.append_metrics({"step": 10 * number, "time": 0.0, "validation/bits_per_dim": figures["bits_per_dim"]})
            options["watch"](10 * number, figures)
        result = {
            "metrics": {"holdout": {"bits_per_dim": {"value": value, "stderr": 0.01, "n": 287}}},
            "parameters": 1000 * model.features * model.residual_blocks,
            "throughput": {"train_images_per_second": 1e5 / model.features},
            "steps": 40,
        }
        run.write_result(result)
        return result


@dataclass
class Lab:
    """Runs studies of one experiment file in an empty folder."""

    lines: list[str] = field(default_factory=list)
    storage: BaseStorage = field(default_factory=InMemoryStorage)

    def tune(self, trials: int, *overrides: str, study: str = "a", **options: Any) -> Outcome:
        settings = {"storage": self.storage, "show": self.lines.append, **options}
        with Mirror() as mirror:
            studied = tune("searched.yaml", trials, overrides=list(overrides), study=study, mirror=mirror, **settings)
        return outcome_of(studied)

    def study(self, name: str = "a") -> Study:
        return find_study(name, self.storage)

    def records(self, name: str = "a") -> list[dict[str, Any]]:
        paths = sorted(study_folder(self.study(name)).glob("trial-*/trial.json"))
        return [json.loads(path.read_text()) for path in paths]


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> Formula:
    trainer = Formula()
    monkeypatch.setattr(trial_module, "train", trainer)
    return trainer


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    Path("searched.yaml").write_text(SPACE + TUNE)
    return Lab()
