"""Models that travel: the same values elsewhere, whatever the first machine had, and nothing that was changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import flowbench
from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.evaluation.measuring import Request
from flowbench.figures.drawing import draw_run
from flowbench.runs.folder import RunFolder
from flowbench.tasks.loading import evaluate_run
from flowbench.trained.exporting import export_run
from flowbench.training.loop import train

TINY = ["model.features=4", "model.batch_norm=true", "train.steps=6", "evaluate.draws=1"]


@pytest.fixture(scope="module", params=["ema", "raw"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp(request.param) / "run")
    train(load_experiment("real_nvp/digits", [*TINY, f"evaluate.weights={request.param}"]), folder.path)
    return folder


@pytest.fixture
def bundle(run: RunFolder, tmp_path: Path) -> Path:
    return export_run(run, tmp_path / "bundle", "cc-by-4.0")


def tensors(run: RunFolder) -> dict[str, torch.Tensor]:
    loaded = run.load_checkpoint()
    assert loaded is not None
    parts = ("model", "ema", "population")
    return {f"{part}.{name}": value for part in parts for name, value in loaded[0][part].items()}


def test_weights_averages_and_population_come_back_bit_for_bit(run: RunFolder, bundle: Path) -> None:
    before, after = tensors(run), tensors(RunFolder(bundle))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) and value.dtype == after[name].dtype for name, value in before.items())
    one, other = flowbench.load_run(run.path), flowbench.load_run(bundle)
    images = torch.randint(17, (5, 1, 8, 8), dtype=torch.uint8)
    bits = [model.bits_per_dim(images, generator=torch.Generator().manual_seed(1)) for model in (one, other)]
    assert torch.equal(*bits)


def test_evaluation_gives_the_same_values_per_image(run: RunFolder, bundle: Path) -> None:
    shutil.rmtree(bundle / "evaluations")
    content, path = evaluate_run(RunFolder(bundle), Request())
    (first,) = run.evaluations.glob("test-*.json")
    assert content["metrics"]["test"] == run.result["metrics"]["test"]
    assert np.array_equal(np.load(path.with_suffix(".npy")), np.load(first.with_suffix(".npy")))


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "config.yaml", "environment.json"])
def test_one_flipped_bit_is_refused_in_one_line(bundle: Path, name: str) -> None:
    path = bundle / name
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: changed or damaged since the export") as caught:
        RunFolder(bundle).load_checkpoint()
    assert "\n" not in str(caught.value)


def test_missing_files_and_manifests_are_refused(bundle: Path) -> None:
    (bundle / "training.safetensors").unlink()
    with pytest.raises(InputError, match=r"missing, but manifest\.json lists it"):
        flowbench.load_run(bundle)
    (bundle / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="missing or damaged: export the run again"):
        flowbench.load_run(bundle)


def test_the_card_says_what_it_is_and_its_head_is_what_hubs_read(run: RunFolder, bundle: Path) -> None:
    card = (bundle / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    front = yaml.safe_load(head)
    figure = run.result["metrics"]["test"]["bits_per_dim"]
    assert (front["license"], front["library_name"], front["datasets"]) == ("cc-by-4.0", "flowbench", ["digits"])
    (named,) = [part for part in front["model-index"][0]["results"] if part["dataset"]["split"] == "test"]
    assert named["metrics"][0] == {"type": "bits_per_dim", "value": figure["value"], "name": "bits/dim"}
    assert f"{figure['value']:.4f} ± {figure['stderr']:.4f}" in body
    assert f"batch norm population, weights {figure['weights']}" in body
    assert run.result["data_fingerprint"] in body
    assert "CC BY 4.0" in body
    assert f'flowbench.load_run("{bundle.name}")' in body
    assert json.loads((bundle / "config.json").read_text())["model"]["features"] == 4


def test_pictures_of_an_export_are_drawn_and_its_files_stay_whole(bundle: Path) -> None:
    before = (bundle / "result.json").read_bytes()
    assert draw_run(RunFolder(bundle), ["samples"]).paths
    assert (bundle / "result.json").read_bytes() == before
    assert flowbench.load_run(bundle).result["metrics"]


def test_an_export_can_be_exported_and_nothing_is_overwritten(bundle: Path) -> None:
    again = export_run(RunFolder(bundle), bundle.parent / "again")
    assert (again / "model.safetensors").read_bytes() == (bundle / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        export_run(RunFolder(bundle), again)
    assert not list(bundle.parent.glob(".*"))


def test_an_unfinished_run_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not finished"):
        export_run(RunFolder(tmp_path / "nothing"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def series(path: Path, rows: int, seed: int) -> Path:
    hours = np.arange(rows)
    noise = np.random.default_rng(seed).normal(size=rows)
    dates = pd.date_range("2020-01-01", periods=rows, freq="h")
    pd.DataFrame({"date": dates, "OT": 5 + 3 * np.sin(hours / 4) + noise}).to_csv(path, index=False)
    return path


def test_another_process_elsewhere_with_another_data_root_takes_it(run: RunFolder, bundle: Path) -> None:
    if run.path.parent.name.startswith("raw"):
        pytest.skip("once is enough: starting Python takes seconds")
    environment = {**os.environ, "FLOWBENCH_DATA": str(bundle.parent / "nothing"), "FLOWBENCH_TRACKING": "off"}
    command = [sys.executable, "-m", "flowbench", "evaluate", str(bundle), "--json"]
    done = subprocess.run(command, cwd=bundle.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["test"] == run.result["metrics"]["test"]


def test_a_forecaster_keeps_its_scaler_where_the_training_file_is_not(tmp_path: Path) -> None:
    first, second = series(tmp_path / "first.csv", 300, 0), series(tmp_path / "second.csv", 260, 1)
    changes = [f"data.csv={first}", "data.protocol=ratio", "data.lookback=24", "data.horizon=6", "train.epochs=1"]
    run = RunFolder(tmp_path / "run")
    train(load_experiment("etth/dlinear", changes), run.path)
    request = Request(data=str(second))
    before, _ = evaluate_run(run, request)
    bundle = RunFolder(export_run(run, tmp_path / "bundle"))
    first.unlink()
    after, path = evaluate_run(bundle, request)
    assert after["metrics"] == before["metrics"]
    assert np.array_equal(np.load(path.with_suffix(".npy")), np.load(run.evaluations / path.with_suffix(".npy").name))
    assert str(tmp_path) not in (bundle.path / "config.yaml").read_text()
    with pytest.raises(InputError, match=r"first\.csv"):
        evaluate_run(bundle, Request())
