"""A trainer that writes finished run folders at once, for tests of what stands above training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowbench.config.experiments import config_sha256
from flowbench.config.schema import Experiment
from flowbench.data import open_split
from flowbench.runs.folder import RunFolder

__all__ = ["FakeTrainer"]

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


@dataclass
class FakeTrainer:
    """Called like a trainer: `values[name, seed]` is the figure or the error to raise; 2.0 where none is given."""

    values: dict[tuple[str, int], float | BaseException] = field(default_factory=dict)
    calls: list[tuple[str, int]] = field(default_factory=list)
    budget: str = "quick"
    dirty: bool = False
    metric: str | None = None
    """None: bits/dim or MAE, by the kind of experiment."""
    limited: str | None = None
    """The label of a small evaluation."""

    def __call__(self, experiment: Experiment[Any, Any], path: Path) -> Mapping[str, Any]:
        run = RunFolder(path)
        key = (experiment.name, experiment.seed)
        self.calls.append(key)
        value = self.values.get(key, 2.0)
        if not run.exists:
            run.begin(
                experiment, {"dirty": self.dirty, "device_name": "A test's processor", "packages": {"torch": "2"}}
            )
        if isinstance(value, BaseException):
            raise value
        metric = self._metric(experiment)
        for step in range(0, 200, 10):
            run.append_metrics({"step": step, "epoch": 0, "time": 0.0, f"train/{metric}": 4 - step / 100})
            run.append_metrics({"step": step, "epoch": 0, "time": 0.0, f"validation/{metric}": 4.1 - step / 100})
        run.figures.mkdir(exist_ok=True)
        (run.figures / "samples.png").write_bytes(PIXEL)
        result = self.result(experiment, value)
        # Not write_result, which refuses the non-finite figures that a test may want here.
        (path / "result.json").write_text(json.dumps(result))
        return result

    def result(self, experiment: Experiment[Any, Any], value: float) -> dict[str, Any]:
        labels: dict[str, Any] = {
            "draws": 8,
            "levels": 17,
            "dequantization": "uniform",
            "bound": "uniform",
            "batch_norm": "population",
        }
        if self.limited:
            labels["limited"] = self.limited
        return {
            "schema": 1,
            "experiment": experiment.name,
            "kind": experiment.kind,
            "model": experiment.model.name,
            "dataset": experiment.data.name,
            "data_fingerprint": open_split("digits", "train").fingerprint,
            "data_status": "verified",
            "seed": experiment.seed,
            "budget": self.budget,
            "parameters": 12345,
            "steps": 200,
            "train_seconds": 12.3,
            "metrics": {
                "test": {
                    self._metric(experiment): {"value": value, "stderr": 0.02, "n": 360, **labels, "weights": "raw"}
                }
            },
            "config_sha256": config_sha256(experiment),
            "numerics": {"model": experiment.model.numerics, "data": 1},
        }

    def _metric(self, experiment: Experiment[Any, Any]) -> str:
        return self.metric or ("mae" if experiment.kind == "forecast" else "bits_per_dim")
