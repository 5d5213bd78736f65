"""A trained forecaster of distributions from Python: its frame, and its model's own contract."""

import numpy as np
import pandas as pd
import pytest
import torch

import flowbench as fb
from flowbench.errors import InputError

WINDOWS = {"data": {"protocol": "ratio", "lookback": 24, "horizon": 6}, "train": {"epochs": 1}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fb.Run:
    noise = np.random.default_rng(0).normal(size=(300, 2))
    index = pd.date_range("2024-01-01", periods=300, freq="h")
    values = np.sin(np.arange(300)[:, None] / 24 * 2 * np.pi) + 0.2 * noise
    series = pd.DataFrame(values * [1, 10], columns=["a", "b"], index=index)
    experiment = fb.experiment("etth/nlinear-flow", model={"features": 8, "couplings": 2}, **WINDOWS)
    return fb.train(experiment, tmp_path_factory.mktemp("runs") / "one", data=series, progress=False)


def test_a_frame_has_the_quantiles_and_the_paths_that_were_asked_for(run: fb.Run) -> None:
    frame = run.forecast(samples=9, quantiles=[0.1, 0.9])
    paths = [f"{column}_path{number}" for number in range(1, 10) for column in "ab"]
    expected = ["date", "a", "b", "a_forecast", "b_forecast", "a_q0.1", "b_q0.1", "a_q0.9", "b_q0.9", *paths]
    assert list(frame) == expected
    assert len(frame) == 6
    of_b = frame[[f"b_path{number}" for number in range(1, 10)]]
    assert (frame["b_q0.1"] == of_b.min(axis=1)).all()  # of nine paths the lowest and the highest
    assert (frame["b_q0.9"] == of_b.max(axis=1)).all()
    pd.testing.assert_frame_equal(frame, run.forecast(samples=9, quantiles=[0.1, 0.9]))
    rolled = run.forecast(rolling=True, samples=2)
    assert len(rolled) == 276
    assert rolled["a_path1"].notna().all()
    assert list(run.forecast()) == ["date", "a", "b", "a_forecast", "b_forecast"]
    with pytest.raises(InputError, match="9 paths do not tell it: give --samples 19 or more"):
        run.forecast(samples=9, quantiles=[0.05])


def test_the_model_has_a_density_and_samples_of_the_future_given_the_past(run: fb.Run) -> None:
    past, future = torch.randn(5, 24, 2), torch.randn(5, 6, 2)
    assert run.log_prob(future, past).shape == (5,)
    drawn = run.model.sample(past, 3, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 5, 6, 2)
    assert torch.equal(run.sample(past, 3, torch.Generator().manual_seed(0)), drawn)
    metrics = run.result["metrics"]["test"]
    assert {"nll", "crps", "coverage_50", "coverage_90", "mae_median", "mae", "mse"} <= set(metrics)
    assert metrics["crps"]["samples"] == 99
