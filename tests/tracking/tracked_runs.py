"""Run folders as the training writes them, and a look at what MLflow holds."""

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from flowbench.tracking.store import open_client, patience

START = 1_790_000_000.0


class FakeRun:
    """Writes a run folder's files one after the other, as a training does."""

    def __init__(self, folder: Path, experiment: str, seed: int = 0) -> None:
        self.folder, self.experiment = folder, experiment
        folder.mkdir(parents=True)
        config = {
            "name": experiment,
            "kind": "density",
            "seed": seed,
            "data": {"name": "digits", "batch_size": 64},
            "model": {"name": "real_nvp", "features": 32},
            "optim": {"betas": [0.9, 0.999]},
            "tune": {},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        data = {"name": "digits", "fingerprint": "ab" * 32, "status": "verified"}
        environment = {"commit": "c0ffee", "dirty": True, "flowbench": "0.1.0", "data": data}
        (folder / "environment.json").write_text(json.dumps(environment))

    def rows(self, first: int, last: int, *, began: float = START, **extra: Any) -> None:
        """Append the rows of steps first…last."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            for step in range(first, last + 1):
                row = {"step": step, "epoch": step / 10, "time": began + step, "train/bits_per_dim": 3 - step / 100}
                file.write(json.dumps(row | extra) + "\n")

    def cut(self, step: int) -> None:
        """Remove the rows past `step`, replacing the file, as a resumed training does."""
        path = self.folder / "metrics.jsonl"
        kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        replacement = path.with_suffix(".new")
        replacement.write_text("".join(line + "\n" for line in kept))
        replacement.replace(path)

    def fail(self, reason: str) -> None:
        """Write what a training that failed writes."""
        (self.folder / "failure.json").write_text(json.dumps({"schema": 1, "reason": reason}))

    def finish(self, steps: int) -> None:
        """Write the result and a figure."""
        metric = {"value": 2.05, "stderr": 0.01, "n": 360, "bound": "uniform", "levels": 17}
        result = {
            "steps": steps,
            "budget": "quick",
            "config_sha256": "d" * 64,
            "parameters": 1234,
            "train_seconds": 12.5,
            "metrics": {"test": {"bits_per_dim": metric, "odd": {"value": None, "stderr": None, "n": 3}}},
            "throughput": {"train_images_per_second": 100.0},
        }
        (self.folder / "result.json").write_text(json.dumps(result))
        (self.folder / "figures").mkdir()
        (self.folder / "figures" / "samples.png").write_bytes(b"picture")


class Holdings:
    """What an MLflow store holds of an experiment."""

    def __init__(self, uri: str) -> None:
        with patience(10, 0):
            self.client = open_client(uri)

    def runs(self, experiment: str) -> list[Any]:
        found = self.client.get_experiment_by_name(experiment)
        return [] if found is None else list(self.client.search_runs([found.experiment_id]))

    def only(self, experiment: str) -> Any:
        (run,) = self.runs(experiment)
        return self.client.get_run(run.info.run_id)

    def history(self, run: Any, key: str) -> dict[int, tuple[float, int]]:
        """Return {step: (value, time in ms)} of a metric; no step may be there twice."""
        entries = self.client.get_metric_history(run.info.run_id, key)
        twice = [step for step, count in Counter(entry.step for entry in entries).items() if count > 1]
        assert not twice, f"{key}: steps {twice} are there twice"
        return {entry.step: (entry.value, entry.timestamp) for entry in entries}

    def everything(self, run: Any) -> dict[str, dict[int, tuple[float, int]]]:
        keys = [key for key in self.client.get_run(run.info.run_id).data.metrics if not key.startswith("system/")]
        return {key: self.history(run, key) for key in keys}


def expected_rows(run: FakeRun) -> dict[str, dict[int, tuple[float, int]]]:
    """Return what the folder's rows say, in the form of `Holdings.everything`."""
    found: dict[str, dict[int, tuple[float, int]]] = {}
    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        step, moment = row.pop("step"), int(row.pop("time") * 1000)
        for key, value in row.items():
            found.setdefault(key, {})[step] = (value, moment)
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return as soon as the condition holds; fail when it does not within `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.05)
