"""The end of a training: its result is written first, and nothing that is drawn afterwards can lose it."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flowbench.config.experiments import load_experiment
from flowbench.config.result_notes import UNDRAWN
from flowbench.config.schema import Experiment
from flowbench.reproduction.agenda import finished
from flowbench.runs.folder import RunFolder
from flowbench.system.interruption import Interrupted
from flowbench.training import loop
from flowbench.training.loop import train

VARYING = ("train_seconds", "throughput", "mlflow_run_id")


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment[Any, Any]:
    hours = pd.date_range("2020-01-01", periods=400, freq="h")
    pd.DataFrame({"date": hours, "OT": np.arange(400.0)}).to_csv(tmp_path / "series.csv", index=False)
    keys = [f"data.csv={tmp_path / 'series.csv'}", "data.protocol=ratio", "data.lookback=24", "data.horizon=4"]
    return load_experiment("etth/repeat_last", keys)


def comparable(run: RunFolder) -> dict[str, Any]:
    return {key: value for key, value in run.result.items() if key not in VARYING}


def test_the_result_is_there_before_anything_is_drawn(
    experiment: Experiment[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def draw(run: RunFolder) -> list[str]:
        assert run.undrawn
        seen.append(comparable(run))
        return ["figure test: is not drawn"]

    monkeypatch.setattr(loop, "draw_at_end", draw)
    result = train(experiment, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert result == run.result
    assert not run.undrawn
    *before, undrawn = seen[0]["notes"]
    assert undrawn == UNDRAWN
    assert comparable(run) == {**seen[0], "notes": [*before, "figure test: is not drawn"]}


def test_an_error_while_drawing_is_a_note_of_the_result(
    experiment: Experiment[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: RunFolder) -> list[str]:
        raise MemoryError("no more\nof it")

    monkeypatch.setattr(loop, "draw_at_end", fail)
    result = train(experiment, tmp_path / "run")
    assert result["metrics"]["test"]["mae"]["n"] > 0
    assert result["notes"][-1] == "figures: MemoryError: no more of it"
    assert not (tmp_path / "run" / "failure.json").exists()


def test_a_run_that_was_stopped_while_drawing_says_so_and_is_drawn_by_the_next_call(
    experiment: Experiment[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, run = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "run")
    monkeypatch.setattr(loop, "draw_at_end", lambda _: [])
    train(experiment, straight.path)
    monkeypatch.setattr(loop, "draw_at_end", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match=f"finished.*flowbench figures {run.path}") as caught:
        train(experiment, run.path)
    assert caught.value.exit_code == 143
    assert run.finished
    assert run.result["notes"][-1] == UNDRAWN
    assert not finished(run.path, experiment)  # `reproduce` does not leave it so
    monkeypatch.setattr(loop, "draw_at_end", lambda _: [])
    train(experiment, run.path)
    assert finished(run.path, experiment)
    assert comparable(run) == comparable(straight)


def test_a_finished_run_that_would_come_out_differently_today_says_so(
    experiment: Experiment[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    train(experiment, run.path)
    train(experiment, run.path)
    assert "stale" not in capsys.readouterr().err
    run.write_result({**run.result, "numerics": {**run.result["numerics"], "model": 0}})
    assert train(experiment, run.path) == json.loads((run.path / "result.json").read_text())
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"{run.path}: stale: repeat_last computes differently today" in said.err
