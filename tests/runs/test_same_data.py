"""A run is never measured, silently, on other bytes under the name of its data."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flowbench.__main__ import main
from flowbench.config.experiments import load_experiment
from flowbench.data.manifest import file_sha256
from flowbench.data.preparing import prepare
from flowbench.errors import InputError
from flowbench.evaluation.measuring import Request
from flowbench.runs.folder import RunFolder
from flowbench.runs.same_data import change_of_data, check_same_data
from flowbench.tasks.loading import evaluate_run
from flowbench.training.loop import train
from tests.data.make import random_images, write_folder

Call = Callable[..., tuple[int, str, str]]
WINDOWS = ["data.protocol=ratio", "data.lookback=24", "data.horizon=8"]
TRAIN = ["train", "etth/mean", "data.csv=mine.csv", *WINDOWS, "--run-dir", "r/mine"]


def write(path: Path, scale: float = 1.0, seed: int = 0) -> str:
    values = np.random.default_rng(seed).normal(3.0, 1.0, size=(400, 2)) * [1.0, scale]
    frame = pd.DataFrame(values, columns=["a", "OT"])
    frame.insert(0, "date", pd.date_range("2020-01-01", periods=400, freq="1h"))
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)
    return file_sha256(path)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")

    def flowbench(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flowbench", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return flowbench


def test_a_file_that_changed_is_refused_by_every_command_that_takes_it_for_the_runs_own(call: Call) -> None:
    then = write(Path("mine.csv"))
    assert call(*TRAIN)[0] == 0
    shutil.copytree("r/mine", "r/other")
    assert call(*TRAIN)[1].startswith("r/mine: was finished already")
    kept = {path: path.read_bytes() for path in Path("r/mine").rglob("*") if path.is_file() and path.name != ".lock"}
    now = write(Path("mine.csv"), scale=10)
    for command in (
        TRAIN,
        [*TRAIN, "--resume"],
        ["evaluate", "r/mine"],
        ["evaluate", "r/mine", "--split", "validation"],
        ["figures", "r/mine"],
        ["forecast", "r/mine", "--rolling"],
        ["compare", "r/mine", "r/other"],
        ["compare", "--runs", "r/mine", "--runs", "r/other", "--out", "compared"],
    ):
        code, out, errors = call(*command)
        assert (code, out) == (2, "")
        (line,) = [line for line in errors.splitlines() if line.startswith("flowbench: ")]
        assert all(word in line for word in ("mine.csv", then, now, "--data", "--run-dir"))
    assert kept == {path: path.read_bytes() for path in kept}

    Path("mine.csv").unlink()  # what needs no data goes on needing none
    assert call(*TRAIN)[1].startswith("r/mine: was finished already")
    assert call("compare", "r/mine", "r/other")[0] == 0
    code, _, errors = call("evaluate", "r/mine")
    assert (code, "mine.csv: cannot be read" in errors) == (2, True)


def test_other_bytes_under_the_same_path_are_measured_with_the_runs_scaler_in_a_file_of_their_own(call: Call) -> None:
    write(Path("mine.csv"))
    assert call(*TRAIN)[0] == 0
    own = Path("r/mine/evaluations/test-mine.json")
    before = own.read_bytes()
    same = json.loads(call("evaluate", "r/mine", "--data", "mine.csv", "--json")[1])["metrics"]["test"]
    metrics = json.loads(before)["metrics"]["test"]
    assert same["mae"] == metrics["mae"]
    assert same["mae_own_scaler"]["value"] == pytest.approx(metrics["mae"]["value"], rel=1e-12)
    before = own.read_bytes()

    now = write(Path("mine.csv"), scale=10)
    code, out, _ = call("evaluate", "r/mine", "--data", "mine.csv")
    assert (code, f"written to r/mine/evaluations/test-mine-{now[:12]}.json" in out) == (0, True)
    content = json.loads(own.with_name(f"test-mine-{now[:12]}.json").read_text())
    assert content["data_fingerprint"] == now
    found = content["metrics"]["test"]
    # Forecasting the mean is linear in the values: under the run's scaler the column's error is ten times the other.
    assert found["mae"]["per_column"]["a"] == pytest.approx(metrics["mae"]["per_column"]["a"])
    assert found["mae"]["per_column"]["OT"] == pytest.approx(10 * metrics["mae"]["per_column"]["OT"], rel=1e-5)
    assert found["mae_own_scaler"]["value"] == pytest.approx(metrics["mae"]["value"], rel=1e-5)
    assert own.read_bytes() == before
    _, out, _ = call("forecast", "r/mine", "--rolling", "--data", "mine.csv", "--json")
    assert Path(json.loads(out)["csv"]).name == f"rolling-mine-{now[:12]}.csv"


def test_the_other_file_that_is_tested_on_is_the_runs_data_too(data_folder: Path, tmp_path: Path) -> None:
    write(data_folder / "etth1" / "ETTh1.csv")
    then = write(data_folder / "etth2" / "ETTh2.csv", seed=1)
    experiment = load_experiment("etth/mean", ["data.name=etth1", "data.test_on=etth2", *WINDOWS])
    train(experiment, tmp_path / "run")
    check_same_data(RunFolder(tmp_path / "run"))
    now = write(data_folder / "etth2" / "ETTh2.csv", seed=2)
    assert change_of_data(RunFolder(tmp_path / "run")) == ("test_on", then, now, "fingerprint")
    with pytest.raises(InputError, match="test_on: fingerprint"):
        evaluate_run(RunFolder(tmp_path / "run"), Request())


def test_a_run_from_before_the_parts_were_recorded_knows_what_it_was_trained_on(tmp_path: Path) -> None:
    then = write(tmp_path / "mine.csv")
    run = RunFolder(tmp_path / "run")
    train(load_experiment("etth/mean", [f"data.csv={tmp_path / 'mine.csv'}", *WINDOWS]), run.path)
    environment = run.environment
    del environment["data"]["fingerprints"]
    (run.path / "environment.json").write_text(json.dumps(environment))
    assert change_of_data(run) is None
    now = write(tmp_path / "mine.csv", seed=1)
    assert change_of_data(run) == ("file", then, now, "fingerprint")


def prepared(folder: Path, seed: int, *, train_seed: int | None = None) -> None:
    """Put 20 and 8 images into the slot of `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    write_folder(folder / "train", random_images(20, 8, seed=seed if train_seed is None else train_seed))
    write_folder(folder / "test", random_images(8, 8, seed=seed + 100))
    prepare("folder", folder)


def test_other_images_in_the_slot_of_a_folder_are_refused_and_measured_apart_when_asked_for(
    data_folder: Path, tmp_path: Path
) -> None:
    prepared(tmp_path / "images", 0)
    run = RunFolder(tmp_path / "run")
    result = train(load_experiment("independent/digits", ["data.name=folder", "data.batch_size=4"]), run.path)
    before = {path: path.read_bytes() for path in run.evaluations.iterdir()}
    assert evaluate_run(run, Request())[0]["metrics"]["test"] == result["metrics"]["test"]

    prepared(tmp_path / "images", 1, train_seed=0)  # other test images alone
    assert change_of_data(run) is not None
    with pytest.raises(InputError, match="folder, test: fingerprint"):
        evaluate_run(run, Request())
    prepared(tmp_path / "images", 1)
    for command in (lambda: evaluate_run(run, Request()), lambda: train(run.experiment, run.path)):
        with pytest.raises(InputError, match=r"folder, t[a-z]*: fingerprint"):
            command()
    content, path = evaluate_run(run, Request(data="folder"))
    assert content["data_fingerprint"][:12] in path.name
    assert before == {path: path.read_bytes() for path in before}


def test_batch_statistics_are_not_taken_from_images_that_were_not_trained_on(data_folder: Path, tmp_path: Path) -> None:
    prepared(tmp_path / "images", 0)
    tiny = ["model.features=2", "model.residual_blocks=1", "model.batch_norm=true", "train.ema=0"]
    changes = [*tiny, "train.steps=2", "data.batch_size=4", "evaluate.draws=1", "data.name=folder"]
    run = RunFolder(tmp_path / "run")
    train(load_experiment("real_nvp/digits", changes), run.path)
    prepared(tmp_path / "images", 1)
    with pytest.raises(InputError, match="batch-norm statistics are those of its training images"):
        evaluate_run(run, Request(data="folder"))
    content, _ = evaluate_run(run, Request(data="folder", batch_norm="running"))
    assert set(content["metrics"]["test"]) == {"bits_per_dim"}


def test_the_same_images_in_another_order_are_other_data(data_folder: Path, tmp_path: Path) -> None:
    images = random_images(20, 8)
    for part, array in (("train", images), ("test", images[:8])):
        write_folder(tmp_path / "images" / part, array)
    prepare("folder", tmp_path / "images")
    run = RunFolder(tmp_path / "run")
    train(load_experiment("independent/digits", ["data.name=folder", "data.batch_size=4"]), run.path)
    then = run.environment["data"]["arrays"]["train.npy"]
    assert then == file_sha256(data_folder / "folder" / "train.npy")
    shutil.rmtree(tmp_path / "images")
    for part, array in (("train", images[::-1]), ("test", images[:8])):
        write_folder(tmp_path / "images" / part, array)
    shutil.rmtree(data_folder / "folder")
    prepare("folder", tmp_path / "images")
    now = file_sha256(data_folder / "folder" / "train.npy")
    assert now != then
    assert change_of_data(run) == ("train.npy", then, now, "the same images in another order, SHA-256")
    with pytest.raises(InputError, match=r"train\.npy: the same images in another order"):
        evaluate_run(run, Request())
