from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from flowbench.config import load_experiment
from flowbench.forecast_task import ForecastTask


def task(folder: Path, *overrides: str) -> ForecastTask:
    path = folder / "made.csv"
    if not path.exists():
        dates = pd.date_range("2020-01-01", periods=600, freq="1h").astype(str)
        values = np.random.default_rng(0).normal(size=(600, 2))
        pd.DataFrame({"date": dates, "a": values[:, 0], "OT": values[:, 1]}).to_csv(path, index=False)
    small = ["data.protocol=ratio", "data.lookback=24", "data.horizon=8", "data.batch_size=4"]
    return ForecastTask(
        load_experiment("etth/nlinear", [f"data.csv={path}", *small, *overrides]), torch.device("cpu")
    )  # fmt: skip


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


def test_without_a_word_the_loss_is_the_squared_error_for_models_with_and_without_weights(tmp_path: Path) -> None:
    assert task(tmp_path).monitor == task(tmp_path, "model={name: mean}").monitor == "mse"
