"""`flowbench reproduce` killed again and again at random moments ends with the undisturbed run's results.

FLOWBENCH_CHAOS_KILLS says how many times (5), FLOWBENCH_CHAOS_SEED which moments.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from flowbench.runs.folder import RunFolder
from tests.faults.commands import FLOWBENCH, LIMIT, finish, start

KILLS = int(os.environ.get("FLOWBENCH_CHAOS_KILLS", "5"))
SEED = int(os.environ.get("FLOWBENCH_CHAOS_SEED", "0"))
SIGNALS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
VARYING = ("train_seconds", "throughput", "mlflow_run_id")

FLOW = ["train.steps=24", "train.checkpoint_every=5", "train.log_every=5", "evaluate.draws=1"]
ROWS: list[dict[str, Any]] = [
    {
        "row": "flows",
        "dataset": "digits",
        "metric": "bits_per_dim",
        "split": "test",
        "experiments": [
            "independent/digits",
            {
                "name": "real_nvp/digits",
                "overrides": ["model.features=4", "model.batch_norm=true", "data.holdout=60", *FLOW],
            },
            {"name": "glow/digits", "overrides": ["model.hidden=8", "model.steps=2", "model.levels=1", *FLOW]},
        ],
    },
    {
        "row": "series",
        "dataset": "etth1",
        "metric": "mae",
        "split": "test",
        "experiments": [
            {
                "name": "etth/lstm2lstm",
                "overrides": [
                    *("data.csv=series.csv", "data.protocol=ratio", "data.lookback=24", "data.horizon=6"),
                    *("model.hidden=8", "model.teacher_forcing=0.5", "train.steps=24", "train.checkpoint_every=5"),
                    *("train.log_every=5", "train.validate_every=12"),
                ],
            }
        ],
    },
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    table = {"table": "chaos", "title": "Chaos", "description": "Tiny runs to be killed.", "rows": ROWS}
    (tmp_path / "chaos.yaml").write_text(yaml.safe_dump(table))
    values = np.sin(np.arange(600) / 4)
    frame = pd.DataFrame({"date": pd.date_range("2020-01-01", periods=600, freq="h"), "OT": values})
    frame.to_csv(tmp_path / "series.csv", index=False)
    return tmp_path


def outcome(out: Path) -> dict[str, Any]:
    """Everything that a reproduce leaves behind and that time does not change."""
    results = json.loads((out / "results.json").read_text())
    left: dict[str, Any] = {"results": results, "table": (out / "table.csv").read_text()}
    for path in sorted(path for row in results["rows"] for path in row["runs"]):
        run = RunFolder(out / path)
        loaded = run.load_checkpoint()
        assert loaded is not None
        assert loaded[1] is None
        state = loaded[0]
        left[path] = {
            "result": {key: value for key, value in run.result.items() if key not in VARYING},
            # A logged row is the mean since the one before, or since the start of the process: its step must be right.
            "rows": [row["step"] if "lr" in row else {**row, "time": 0} for row in run.metrics()],
            "weights": dict(state["model"]),
            "files": sorted(file.relative_to(run.path).as_posix() for file in run.path.rglob("*") if file.is_file()),
        }
    return left


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def test_the_comparison_sees_a_difference() -> None:
    with pytest.raises(AssertionError, match="/a/w"):
        assert_equal({"a": {"w": torch.zeros(2)}}, {"a": {"w": torch.tensor([0.0, 1e-30])}})


@pytest.mark.slow
def test_killed_reproduces_end_with_the_undisturbed_results(place: Path) -> None:
    command = ["reproduce", "chaos.yaml", "--jobs", "1", "--out"]
    finish(start([*FLOWBENCH, *command, "straight"], cwd=place))
    straight = outcome(place / "straight")
    assert [row["status"] for row in straight["results"]["rows"]] == ["done"] * 4

    chance = random.Random(SEED)
    kills, finished = dict.fromkeys(SIGNALS, 0), 0
    begun = time.monotonic()
    finish(start([*FLOWBENCH, *command, "timed"], cwd=place))
    duration = time.monotonic() - begun
    assert_equal(outcome(place / "timed"), straight)
    while sum(kills.values()) < KILLS:
        process = start([*FLOWBENCH, *command, "disturbed"], cwd=place)
        number = chance.choices(list(SIGNALS), weights=[3, 1, 1])[0]
        with suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, duration))
        process.send_signal(number)
        _, errors = process.communicate(timeout=LIMIT)
        # A stop outside of a training has nothing to save: SIGTERM is then the system's own.
        assert process.returncode in (0, SIGNALS[number], -number), errors
        assert "Traceback" not in errors, errors
        if process.returncode == 0:
            assert_equal(outcome(place / "disturbed"), straight)
            shutil.rmtree(place / "disturbed")
            finished += 1
        else:
            kills[number] += 1
            print(f"{signal.Signals(number).name}: {errors.strip()[-100:]}")
    finish(start([*FLOWBENCH, *command, "disturbed"], cwd=place))
    assert_equal(outcome(place / "disturbed"), straight)
    counts = ", ".join(f"{signal.Signals(number).name} {count}" for number, count in kills.items())
    print(f"killed {sum(kills.values())} times ({counts}), {finished + 1} whole reproduces compared")
