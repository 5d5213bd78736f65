"""Pictures of a forecaster, and the forecast command, on a small series of the test's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.figures.drawing import draw_run, kinds_of
from flowbench.figures.theme import description_of
from flowbench.runs.folder import RunFolder
from flowbench.trained.forecasting import forecast_run
from flowbench.training.loop import train

ROWS = 400


def write(path: Path, shift: float = 0.0, rows: int = ROWS) -> Path:
    hours = np.arange(rows)[:, None]
    values = np.sin(2 * np.pi * hours / 24 + np.arange(3)) * [1, 5, 20] + 7 + shift
    frame = pd.DataFrame(values, columns=["a", "b", "OT"])
    frame.insert(0, "date", pd.date_range("2020-01-01", periods=rows, freq="1h"))
    frame.to_csv(path, index=False)
    return path


def trained(folder: Path, *changes: str, model: str = "nlinear") -> RunFolder:
    csv = write(folder / "first.csv")
    keys = [f"data.csv={csv}", "data.protocol=ratio", "data.lookback=24", "data.horizon=12", *changes]
    train(load_experiment(f"etth/{model}", keys), folder / "run")
    return RunFolder(folder / "run")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return trained(tmp_path, "train.epochs=2")


def test_every_kind_is_drawn_and_says_what_it_shows(run: RunFolder) -> None:
    assert kinds_of(run) == ["loss-per-epoch", "next-window", "test-forecast", "training-fit"]
    drawn = {path.stem: path for path in draw_run(run).paths}
    assert sorted(drawn) == kinds_of(run)
    assert "nlinear, seed 0: fit on the training part" in description_of(drawn["training-fit"])
    before = {name: path.read_bytes() for name, path in drawn.items()}
    assert draw_run(run).left_out == []
    assert {name: path.read_bytes() for name, path in drawn.items()} == before


def test_a_loss_that_is_logged_more_rarely_than_once_an_epoch_is_a_line(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"step": 5 * (epoch + 1), "epoch": epoch + 1, "validation/mse": 1.0} for epoch in range(9)]
    rows += [{"step": step, "epoch": (step - 1) // 5, "train/loss": 1 / step} for step in (12, 24, 36)]
    monkeypatch.setattr(RunFolder, "metrics", lambda _: sorted(rows, key=lambda row: row["step"]))
    drawn: list[tuple[list[float], list[float]]] = []
    plot = Axes.plot

    def noted(self: Axes, x: Any, y: Any, **options: Any) -> Any:
        drawn.append((list(x), list(y)))
        return plot(self, x, y, **options)

    monkeypatch.setattr(Axes, "plot", noted)
    draw_run(run, ["loss-per-epoch"])
    training, validation = drawn
    assert training == ([3, 5, 8], [1 / 12, 1 / 24, 1 / 36])
    assert validation == (list(range(1, 10)), [1.0] * 9)


def test_a_model_without_steps_has_no_loss_to_draw(tmp_path: Path) -> None:
    run = trained(tmp_path, "data.features=MS", model="repeat_last")
    assert not (run.figures / "loss-per-epoch.svg").exists()
    (line,) = draw_run(run).left_out
    assert "without training steps" in line


def test_forecast_continues_the_file_and_its_error_is_not_known(run: RunFolder) -> None:
    done = forecast_run(run)
    frame = pd.read_csv(done.csv, parse_dates=["date"])
    assert list(frame) == ["date", "a", "b", "OT", "a_forecast", "b_forecast", "OT_forecast"]
    assert list(frame["date"]) == list(pd.date_range("2020-01-01", periods=ROWS + 12, freq="1h")[-12:])
    assert frame[["a", "b", "OT"]].isna().all(axis=None)
    assert (done.rows, done.mae, done.plot.is_file()) == (12, None, True)


def test_rolling_walks_over_a_second_file_under_the_trainings_scaler(run: RunFolder, tmp_path: Path) -> None:
    second = write(tmp_path / "second.csv", shift=3.0, rows=103)
    done = forecast_run(run, str(second), rolling=True)
    frame = pd.read_csv(done.csv)
    assert len(frame) == 103 - 24
    assert frame.notna().all(axis=None)
    std = np.array(run.environment["data"]["std"])
    error = np.abs(frame[["a_forecast", "b_forecast", "OT_forecast"]].to_numpy() - frame[["a", "b", "OT"]].to_numpy())
    assert done.mae == pytest.approx((error / std).mean())
    assert (done.mae_original, done.unit) == (None, None)
    assert list(done.mae_per_column.values()) == pytest.approx(error.mean(axis=0))


def test_a_second_file_without_a_column_is_refused(run: RunFolder, tmp_path: Path) -> None:
    second = tmp_path / "second.csv"
    pd.read_csv(tmp_path / "first.csv").drop(columns="b").to_csv(second, index=False)
    with pytest.raises(InputError, match="no column 'b'"):
        forecast_run(run, str(second), rolling=True)
    assert not (run.path / "forecasts").exists()


def test_distributions_have_pictures_of_their_own(tmp_path: Path) -> None:
    own = {"fan-chart", "sampled-paths", "pit-histogram", "calibration"}
    run = trained(tmp_path, model="empirical")
    assert own < set(kinds_of(run))
    drawn = {path.stem: path for path in draw_run(run, sorted(own)).paths}
    assert set(drawn) == own
    assert "fan of a forecast of the test part" in description_of(drawn["fan-chart"])
    assert "10 % if calibrated" in description_of(drawn["pit-histogram"])
    # The series is the same every day: nothing was ever left of it, so that all is covered.
    assert "the central 50 % cover" in description_of(drawn["calibration"])
    before = {name: path.read_bytes() for name, path in drawn.items()}
    draw_run(run, sorted(own))
    assert {name: path.read_bytes() for name, path in drawn.items()} == before


def test_a_forecast_of_points_has_no_fan(run: RunFolder) -> None:
    with pytest.raises(InputError, match="--kind fan-chart: is drawn of a forecast that gives distributions; here: "):
        draw_run(run, ["fan-chart"])


def test_a_fan_is_drawn_between_the_quantiles_that_were_asked_for(tmp_path: Path) -> None:
    run = trained(tmp_path, "train.epochs=1", model="gaussian")
    done = forecast_run(run, quantiles=(0.05, 0.5, 0.95))
    frame = pd.read_csv(done.csv)
    assert (frame["OT_q0.05"] < frame["OT_q0.5"]).all()
    np.testing.assert_allclose(frame["OT_q0.5"], frame["OT_forecast"], rtol=1e-5)
    assert ">90 %<" in done.plot.read_text()
