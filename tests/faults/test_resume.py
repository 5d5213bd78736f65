"""Every model kind, stopped and gone on with, ends bit for bit as it does undisturbed; what a stop leaves behind."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from flowbench.config.experiments import experiment_names, load_experiment
from flowbench.config.schema import Experiment
from flowbench.runs.folder import RunFolder
from flowbench.system.interruption import Interrupted
from flowbench.tasks.density import DensityTask
from flowbench.tasks.forecast import ForecastTask
from flowbench.training.loop import train

VARYING = ("train_seconds", "throughput", "mlflow_run_id")
LENGTH = ["train.steps=8", "train.checkpoint_every=3", "train.log_every=1", "train.validate_every=4"]
SMALL = {
    "real_nvp": ["model.features=4", "model.batch_norm=true", "model.dropout=0.2"],
    "glow": ["model.hidden=8", "model.steps=2", "model.dropout=0.2"],
    "nice": ["model.features=8", "model.dropout=0.2"],
    "pixelcnn": ["model.filters=4", "model.blocks=1", "optim.name=adam-inside"],
    "iafvae": ["model.features=8", "model.latents=4", "model.blocks=1"],
    "tarflow": [
        "model.width=8",
        "model.head=4",
        "model.blocks=2",
        "model.dropout=0.2",
        "model.coupling=additive",
        "evaluate.weights=raw",
    ],
    "lstm2lstm": ["model.hidden=8"],
    "lstm_flow": ["model.hidden=8", "model.features=8", "model.dropout=0.2"],
    "nlinear_flow": ["model.features=8"],
    "patchtst": ["model.width=8", "model.hidden=8", "model.dropout=0.2"],
}
NAMES = [
    name
    for name in experiment_names()
    if name.endswith(("/digits", "/digits-1x1", "/digits-adversarial")) or name.startswith("etth/")
]


class CrashedError(Exception):
    pass


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Let something happen when the batch of a step is asked for."""
    for task in (DensityTask, ForecastTask):
        original = task.batch

        def acting(self: Any, number: int, original: Any = original) -> Any:
            if number == step:
                action()
            return original(self, number)

        monkeypatch.setattr(task, "batch", acting)


def crash() -> None:
    raise CrashedError


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("series") / "series.csv"
    values = np.sin(np.arange(700) / 4) + np.random.default_rng(0).normal(0, 0.1, 700)
    frame = pd.DataFrame({"date": pd.date_range("2020-01-01", periods=700, freq="h"), "x": values, "OT": values**2})
    frame.to_csv(path, index=False)
    return path


def small(name: str, series: Path) -> Experiment[Any, Any]:
    model = load_experiment(name).model
    overrides = [change for change in SMALL.get(model.name, []) if not getattr(model, "faithful", False)]
    if model.name == "lstm2lstm" and not getattr(model, "faithful", False):
        overrides += ["model.dropout=0.2", "model.teacher_forcing=0.5"]
    if load_experiment(name).kind == "forecast":
        data = [f"data.csv={series}", "data.protocol=ratio", "data.lookback=48", "data.horizon=6"]
        return load_experiment(name, [*overrides, *LENGTH, *data])
    if name.endswith("-adversarial"):
        overrides += ["critic.width=2", "critic.updates=2"]
    steps = [] if model.name == "independent" else LENGTH
    return load_experiment(name, [*overrides, *steps, "data.holdout=60", "evaluate.draws=1"])


def everything(run: RunFolder) -> dict[str, Any]:
    loaded = run.load_checkpoint()
    assert loaded is not None
    state = {key: value for key, value in loaded[0].items() if key != "schedule"}
    rows = [{k: v for k, v in row.items() if k != "time" and "per_second" not in k} for row in run.metrics()]
    return {"state": state, "rows": rows, "result": {k: v for k, v in run.result.items() if k not in VARYING}}


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_kind_goes_on_bit_for_bit(
    name: str, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small(name, series)
    straight, disturbed = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "disturbed")
    steps = train(experiment, straight.path)["steps"]
    for action, error, step in ((crash, CrashedError, 4), (terminate, Interrupted, 6)):
        torch.manual_seed(step)  # a new process has another state
        with monkeypatch.context() as patched:
            at_step(patched, step, action)
            if steps:
                with pytest.raises(error):
                    train(experiment, disturbed.path, resume=True)
    train(experiment, disturbed.path, resume=True)
    assert_equal(everything(disturbed), everything(straight))


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FLOWBENCH_DETERMINISTIC", "1")
    yield
    torch.use_deterministic_algorithms(False)


def test_deterministic_algorithms_can_be_asked_for(series: Path, tmp_path: Path, deterministic: None) -> None:
    train(small("etth/patchtst", series), tmp_path / "run")
    assert torch.are_deterministic_algorithms_enabled()
    assert RunFolder(tmp_path / "run").environment["deterministic"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["real_nvp/digits", "glow/digits", "etth/lstm2lstm"])
def test_deterministic_runs_on_cuda_go_on_bit_for_bit(
    name: str, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deterministic: None
) -> None:
    experiment = small(name, series)
    straight, disturbed = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "disturbed")
    train(experiment, straight.path)
    with monkeypatch.context() as patched:
        at_step(patched, 4, crash)
        with pytest.raises(CrashedError):
            train(experiment, disturbed.path)
    train(experiment, disturbed.path, resume=True)
    assert_equal(everything(disturbed), everything(straight))


def test_a_signal_during_the_evaluation_ends_it_and_loses_nothing(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small("etth/dlinear", series)
    straight, run = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "run")
    train(experiment, straight.path)
    with monkeypatch.context() as patched:
        patched.setattr(ForecastTask, "evaluate", lambda *_: terminate())
        with pytest.raises(Interrupted, match="before the evaluation was done") as caught:
            train(experiment, run.path)
    assert caught.value.exit_code == 143
    assert not run.finished
    assert not (run.path / "failure.json").exists()
    train(experiment, run.path, resume=True)
    assert_equal(everything(run), everything(straight))


def test_a_signal_at_the_last_step_is_not_forgotten(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small("etth/dlinear", series)
    at_step(monkeypatch, 7, terminate)
    with pytest.raises(Interrupted):
        train(experiment, tmp_path / "run")
    assert not RunFolder(tmp_path / "run").finished
