from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.evaluation.measuring import Request
from flowbench.runs.folder import RunFolder
from flowbench.tasks.forecast import ForecastTask
from flowbench.tasks.loading import evaluate_run, load_run
from flowbench.training.loop import train

SMALL = ["data.protocol=ratio", "data.lookback=24", "data.horizon=8", "data.batch_size=4"]


def task(folder: Path, *overrides: str, model: str = "nlinear") -> ForecastTask:
    path = folder / "made.csv"
    if not path.exists():
        dates = pd.date_range("2020-01-01", periods=600, freq="1h").astype(str)
        values = np.random.default_rng(0).normal(size=(600, 2))
        pd.DataFrame({"date": dates, "a": values[:, 0], "OT": values[:, 1]}).to_csv(path, index=False)
    torch.manual_seed(0)
    return ForecastTask(
        load_experiment(f"etth/{model}", [f"data.csv={path}", *SMALL, *overrides]), torch.device("cpu")
    )  # fmt: skip


def write_set(root: Path, name: str, file: str, seed: int) -> None:
    (root / name).mkdir(parents=True)
    values = np.random.default_rng(seed).normal(seed, 1 + seed, size=(600, 2))
    dates = pd.date_range("2020-01-01", periods=600, freq="1h").astype(str)
    pd.DataFrame({"date": dates, "a": values[:, 0], "OT": values[:, 1]}).to_csv(root / name / file, index=False)


def test_another_sets_test_part_is_measured_as_the_training_was_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWBENCH_DATA", str(tmp_path / "data"))
    write_set(tmp_path / "data", "etth1", "ETTh1.csv", 1)
    write_set(tmp_path / "data", "etth2", "ETTh2.csv", 2)
    sets = ["data.name=etth1", "data.protocol=ratio", "data.lookback=24", "data.horizon=8", "train.epochs=1"]
    experiment = load_experiment("etth/nlinear", [*sets, "data.test_on=etth2"])
    result = train(experiment, tmp_path / "run")
    plain = train(load_experiment("etth/nlinear", sets), tmp_path / "plain")
    assert result["metrics"]["validation"] == plain["metrics"]["validation"]
    crossed, _ = evaluate_run(RunFolder(tmp_path / "plain"), Request(data="etth2"))
    assert result["metrics"]["test"] == crossed["metrics"]["test"]
    assert result["metrics"]["test"]["mae"]["value"] > 1.2 * plain["metrics"]["test"]["mae"]["value"]
    assert result["notes"] == ["tested on etth2, scaled as etth1 was in training"]
    assert (tmp_path / "run" / "evaluations" / "test-etth2.json").is_file()


@pytest.mark.parametrize(("loss", "power"), [("mse", 2), ("mae", 1)])
def test_the_loss_is_the_mean_error_to_the_power_asked_for_and_chooses_the_epoch(
    tmp_path: Path, loss: Any, power: int
) -> None:
    asked = task(tmp_path, f"model.loss={loss}")
    history, future = asked.batch(0)
    found, logged = asked.objective(history, future)
    error = (asked.model(history) - future).abs()
    torch.testing.assert_close(found, error.pow(power).mean())
    torch.testing.assert_close(logged["mae"], error.mean())
    assert asked.monitor == loss
    assert set(asked.validate(None)) == {"mae", "mse"}


@pytest.mark.parametrize(("model", "loss"), [("nlinear", "mse"), ("nlinear", "mae"), ("dlinear", "mse")])
def test_a_linear_training_is_the_plain_loop_to_the_last_bit(tmp_path: Path, model: str, loss: str) -> None:
    recipe = [f"model.loss={loss}", "optim.schedule=constant", "train={epochs: null, steps: 50, log_every: 1}"]
    plain = task(tmp_path, *recipe, model=model)
    keys = [f"data.csv={tmp_path / 'made.csv'}", *SMALL, *recipe]
    run = RunFolder(tmp_path / "run")
    train(load_experiment(f"etth/{model}", keys), run.path)
    optimizer = torch.optim.Adam(plain.model.parameters(), plain._experiment.optim.lr, fused=True)
    losses = []
    for step in range(50):
        history, future = plain.batch(step)
        optimizer.zero_grad()
        error = plain.model(history) - future
        value = error.square().mean() if loss == "mse" else error.abs().mean()
        torch.autograd.backward(value)
        optimizer.step()
        losses.append(value.item())
    assert [row["train/loss"] for row in run.metrics() if "train/loss" in row] == losses
    loaded = run.load_checkpoint()
    assert loaded is not None
    assert all(torch.equal(loaded[0]["model"][name], value) for name, value in plain.model.state_dict().items())


def test_without_a_word_the_loss_is_the_squared_error_for_models_with_and_without_weights(tmp_path: Path) -> None:
    assert task(tmp_path).monitor == task(tmp_path, "model={name: mean}").monitor == "mse"


def test_a_distribution_is_trained_and_chosen_by_its_likelihood(tmp_path: Path) -> None:
    asked = task(tmp_path, model="gaussian")
    assert asked.prepare() is False
    history, future = asked.batch(0)
    found, logged = asked.objective(history, future)
    model: Any = asked.model
    assert found.item() == pytest.approx(-model.log_prob(future, history).mean().item() / 16)
    assert logged["nll"] == found
    assert asked.monitor == "nll"
    validated = asked.validate(None)
    past, later = asked._windows.splits["validation"].batch(torch.arange(53))
    assert validated == {"nll": pytest.approx(-model.log_prob(later, past).mean().item() / 16, rel=1e-5)}
    naive = task(tmp_path, "model.paths=40", model="empirical")
    assert naive.prepare() is True
    assert set(naive.validate(None)) == {"mae", "mse"}


@pytest.mark.parametrize("model", ["gaussian", "empirical", "nlinear-flow"])
def test_what_is_fitted_before_the_steps_has_seen_no_row_outside_the_training_part(tmp_path: Path, model: str) -> None:
    fitted = task(tmp_path, model=model)
    fitted.prepare()
    path = tmp_path / "made.csv"
    frame = pd.read_csv(path)
    frame.loc[420:, ["a", "OT"]] += 1000.0  # the training part is the first 70 %
    frame.to_csv(path, index=False)
    again = task(tmp_path, model=model)
    again.prepare()
    state, other = fitted.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state)
    fresh = task(tmp_path, model=model).model.state_dict()
    assert any(not torch.equal(state[name], fresh[name]) for name in state)


def test_the_weights_that_are_asked_for_are_measured_and_named(tmp_path: Path) -> None:
    csv = task(tmp_path)._windows.series.path
    train(load_experiment("etth/dlinear", [f"data.csv={csv}", *SMALL, "train.ema=0.99"]), tmp_path / "run")
    train(load_experiment("etth/dlinear", [f"data.csv={csv}", *SMALL]), tmp_path / "plain")
    run = RunFolder(tmp_path / "run")
    raw, path = evaluate_run(run, Request(weights="raw"))
    own, _ = evaluate_run(run, Request())
    assert path.name == "test-made-raw.json"
    figures = [content["metrics"]["test"]["mae"] for content in (raw, own)]
    assert [figure["weights"] for figure in figures] == ["raw", "ema"]
    assert figures[0]["value"] != figures[1]["value"]
    assert run.result["metrics"]["test"]["mae"] == figures[1]
    model = load_run(run.path)  # the averages
    history, future = task(tmp_path)._windows.splits["test"].batch(torch.arange(5))
    assert np.load(path.with_name("test-made.npy"))[:5, 0] == pytest.approx(
        (model(history) - future).abs().mean((1, 2)).numpy(force=True), abs=1e-5
    )
    with pytest.raises(InputError, match="weights: ema asks for moving averages"):
        evaluate_run(RunFolder(tmp_path / "plain"), Request(weights="ema"))


def test_batch_normalization_has_neither_averaged_weights_nor_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faithful = "model={name: patchtst, faithful: true, patch: 8, layers: 1}"
    with pytest.raises(InputError, match=r"train\.ema: patchtst normalizes by batches .*: set train\.ema=0"):
        task(tmp_path, faithful, "train.ema=0.9")
    task(tmp_path, faithful)
    monkeypatch.setattr("flowbench.tasks.forecast.place", lambda: (0, 2))
    with pytest.raises(InputError, match="2 processes: patchtst normalizes by batches"):
        task(tmp_path, faithful)


@pytest.mark.parametrize(
    "key", ["train.precision=bf16", "train.compile=true", "train.recompute=true", "optim.scale_l2=0.1",
            "evaluate.draws=2", "evaluate.batch_norm=running"]
)  # fmt: skip
def test_what_only_models_of_images_have_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=f"{key.partition('=')[0]}: is for models of images, and dlinear is a"):
        load_experiment("etth/dlinear", [key])
