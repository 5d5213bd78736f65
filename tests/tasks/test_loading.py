"""What an unfinished run's figures say: where the training was stopped."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from flowbench.__main__ import main
from flowbench.config.experiments import load_experiment
from flowbench.evaluation.measuring import Request
from flowbench.figures.drawing import draw_run
from flowbench.figures.theme import description_of
from flowbench.runs.folder import RunFolder
from flowbench.tasks.loading import Stopped, evaluate_run, load_run, stopped_at
from flowbench.trained.forecasting import forecast_run
from flowbench.training.loop import train


class StopHereError(Exception):
    """Raised by a test in the middle of a training."""


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A training of 500 steps of which 93 are done."""
    values = np.random.default_rng(0).normal(size=(400, 2))
    frame = pd.DataFrame(values, columns=["a", "OT"])
    frame.insert(0, "date", pd.date_range("2020-01-01", periods=400, freq="1h"))
    frame.to_csv(tmp_path / "mine.csv", index=False)
    windows = [f"data.csv={tmp_path / 'mine.csv'}", "data.protocol=ratio", "data.lookback=24", "data.horizon=8"]
    from flowbench.training import loop as training

    real = training._step

    def step(session: Any, objective: Any) -> Any:
        if session.step == 93:
            raise StopHereError
        return real(session, objective)

    with monkeypatch.context() as patched:
        patched.setattr("flowbench.training.loop._step", step)
        changes = [*windows, "train.steps=500", "train.checkpoint_every=93"]
        with pytest.raises(StopHereError):
            train(load_experiment("etth/nlinear", changes), tmp_path / "run")
    return RunFolder(tmp_path / "run")


def test_the_figures_of_a_stopped_run_say_where_it_was_stopped(
    stopped: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, path = evaluate_run(stopped, Request())
    assert content["stopped"] == {"step": 93, "steps": 500, "epoch": 13, "epochs": None}
    assert json.loads(path.read_text()) == content
    monkeypatch.setattr(sys, "argv", ["flowbench", "evaluate", str(stopped.path)])
    with pytest.raises(SystemExit):
        main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("test: mae ")
    assert all("stopped at step 93 of 500" in line for line in lines[:-1])

    drawn = draw_run(stopped, ["test-forecast"]).paths
    assert "stopped at step 93 of 500" in description_of(drawn[0])
    done = forecast_run(stopped, rolling=True)
    assert done.stopped == "stopped at step 93 of 500"
    assert re.search(r"MAE \d\.\d+ \(stopped at step 93 of 500\)", description_of(done.plot))


def test_a_run_that_came_to_its_end_says_nothing_even_before_the_last_step(stopped: RunFolder) -> None:
    result = train(stopped.experiment, stopped.path, resume=True)
    # Patience ended it: its own rule, so this is its end. At which step, of noise, depends on a processor's rounding.
    assert 93 < result["steps"] < 500
    content, path = evaluate_run(stopped, Request())
    assert "stopped" not in json.loads(path.read_text())
    assert content["metrics"]["test"] == result["metrics"]["test"]
    assert stopped_at(stopped) is None
    assert forecast_run(stopped).stopped is None


def test_where_epochs_are_counted_the_one_at_work_is_named() -> None:
    assert str(Stopped(1093, 5000, 2, None)) == "stopped at step 1,093 of 5,000"
    assert str(Stopped(93, None, 0, 10)) == "stopped at step 93, in epoch 1 of 10"
    assert str(Stopped(930, None, 10, 10)) == "stopped at step 930, in epoch 10 of 10"


def test_an_unfinished_run_is_loaded_with_weights_and_statistics_that_belong_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [
        "model.features=4",
        "model.batch_norm=true",
        "train.steps=3",
        "train.ema=0.9",
        "evaluate.draws=1",
        "evaluate.limit=20",
    ]
    run = RunFolder(tmp_path / "run")
    train(load_experiment("real_nvp/digits", small), run.path)
    loaded = run.load_checkpoint()
    assert loaded is not None
    state = loaded[0]
    reported = load_run(run.path).state_dict()
    assert all(torch.equal(reported[name], value) for name, value in (state["ema"] | state["population"]).items())
    monkeypatch.setattr(RunFolder, "load_checkpoint", lambda _: ({**state, "population": {}}, *loaded[1:]))
    capsys.readouterr()
    unfinished = load_run(run.path).state_dict()
    assert all(torch.equal(unfinished[name], value) for name, value in state["model"].items())
    assert "not finished: these are the last weights; their moving averages get" in capsys.readouterr().err
