"""A small evaluation, of some of the images or windows only."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowbench.config.experiments import config_sha256, load_experiment
from flowbench.evaluation import reported
from flowbench.evaluation.measuring import Request
from flowbench.runs.folder import RunFolder
from flowbench.tasks.density import DensityTask
from flowbench.tasks.loading import evaluate_run
from flowbench.training.loop import train
from tests.tasks.test_forecast import task


def values(run: RunFolder, limit: int | None) -> tuple[Any, dict[str, Any]]:
    content, path = evaluate_run(run, Request(limit=limit))
    (metrics,) = content["metrics"].values()
    return np.load(path.with_suffix(".npy")), next(iter(metrics.values()))


def test_some_images_have_the_values_that_they_have_among_all(tmp_path: Path) -> None:
    result = train(load_experiment("independent/digits", ["evaluate.limit=50"]), tmp_path)
    assert result["budget"] == "custom"
    trained = result["metrics"]["test"]["bits_per_dim"]
    assert (trained["n"], trained["limited"]) == (50, "50 of 360")
    assert result["metrics"]["train"]["bits_per_dim"]["limited"] == "50 of 1,437"
    run = RunFolder(tmp_path)
    (all_values, whole), (some_values, some) = values(run, 1000), values(run, 40)
    assert len(all_values) == whole["n"] == 360
    assert "limited" not in whole
    np.testing.assert_allclose(some_values, all_values[np.arange(40) * 9], rtol=1e-6)
    assert (some["n"], some["limited"], some["value"]) == (40, "40 of 360", pytest.approx(some_values.mean()))


def test_statistics_are_estimated_on_about_as_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    estimate = reported.estimate_population

    def counting(*arguments: Any) -> None:
        batches.append(arguments[-1])
        estimate(*arguments)

    monkeypatch.setattr(reported, "estimate_population", counting)
    small = [
        "data.batch_size=32",
        "model.features=4",
        "model.residual_blocks=1",
        "model.batch_norm=true",
        "train.ema=0",
    ]
    for limit in (["evaluate.limit=40"], []):
        task = DensityTask(load_experiment("real_nvp/digits", [*small, *limit]), torch.device("cpu"))
        task.prepare()
        assert task.population(None)
    assert batches == [2, reported.POPULATION_BATCHES]


def test_of_windows_the_first_are_measured_in_the_validation_too(tmp_path: Path) -> None:
    experiment = task(tmp_path, "evaluate.limit=20")._experiment
    run = RunFolder(tmp_path / "run")
    result = train(experiment.model_copy(update={"train": experiment.train.model_copy(update={"epochs": 1})}), run.path)
    assert result["metrics"]["test"]["mae"]["limited"] == "20 of 113"
    assert result["metrics"]["validation"]["mae"]["n"] == 20
    (all_values, _), (some_values, some) = values(run, 1000), values(run, None)
    np.testing.assert_array_equal(some_values, all_values[:20])
    assert some["value"] == pytest.approx(all_values[:20, 0].mean())
    logged = [row["validation/mae"] for row in run.metrics() if "validation/mae" in row]
    assert logged[-1] == pytest.approx(result["metrics"]["validation"]["mae"]["value"])


def test_a_config_without_a_limit_keeps_its_hash() -> None:
    plain, limited = (load_experiment("nice/digits", change) for change in ([], ["evaluate.limit=9"]))
    assert config_sha256(plain) == config_sha256(load_experiment("nice/digits", ["evaluate.limit=null"]))
    assert config_sha256(plain) != config_sha256(limited)
