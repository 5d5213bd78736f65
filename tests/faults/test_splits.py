"""Whatever chooses never sees the report split: it is opened once, after the last step, to be reported."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flowbench.config.experiments import load_experiment
from flowbench.data import images as data_images
from flowbench.errors import InputError
from flowbench.forecasting.windows import Windows
from flowbench.tasks import density as density_task
from flowbench.tasks.density import DensityTask
from flowbench.tasks.forecast import ForecastTask
from flowbench.training.loop import train

TINY = [
    *("model.features=4", "train.steps=6", "evaluate.draws=1", "data.holdout=60", "train.validate_every=2"),
    *("train.keep=best", "train.patience=2"),
]


class OpenedError(AssertionError):
    pass


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every opening of a report split of images fail, and list the splits that were opened."""
    opened: list[str] = []
    original = data_images.open_split

    def guarded(name: str, split: Any) -> Any:
        opened.append(split)
        if split != "train":
            raise OpenedError(f"{name} {split} was opened")
        return original(name, split)

    monkeypatch.setattr(data_images, "open_split", guarded)
    return opened


def test_training_with_early_stopping_opens_it_only_to_report(tmp_path: Path, closed: list[str]) -> None:
    with pytest.raises(OpenedError):
        train(load_experiment("real_nvp/digits", TINY), tmp_path / "run")
    # All steps and validations were done, the weights chosen and saved.
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
    steps = [row["step"] for row in _rows(tmp_path / "run") if "validation/bits_per_dim" in row]
    assert steps == [2, 4, 6]
    assert closed[-1] == "test"
    assert closed.count("test") == 1


def test_a_watched_training_never_opens_it(tmp_path: Path, closed: list[str]) -> None:
    watched: list[tuple[int, float]] = []
    result = train(
        load_experiment("real_nvp/digits", TINY),
        tmp_path / "run",
        watch=lambda step, figures: watched.append((step, figures["bits_per_dim"])),
    )
    assert [step for step, _ in watched] == [2, 4, 6]
    assert list(result["metrics"]) == ["holdout"]
    assert set(closed) == {"train"}


def test_without_held_out_images_nothing_can_be_chosen(tmp_path: Path, closed: list[str]) -> None:
    experiment = load_experiment("real_nvp/digits", [*TINY, "data.holdout=0", "train.keep=last"])
    with pytest.raises(InputError, match="leaves no images to choose by"):
        train(experiment, tmp_path / "run", watch=lambda *_: None)
    assert set(closed) == {"train"}


def test_held_out_images_are_training_images_that_are_not_trained_on() -> None:
    experiment = load_experiment("real_nvp/digits", TINY)
    train_images, holdout = data_images.training_parts(experiment.data)
    assert holdout is not None
    assert train_images.rows is not None
    assert holdout.rows is not None
    assert not set(train_images.rows) & set(holdout.rows)
    assert holdout.split == "train"


def test_a_forecaster_is_chosen_without_the_test_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"date": pd.date_range("2020-01-01", periods=600, freq="h"), "OT": np.arange(600.0)})
    frame.to_csv(tmp_path / "series.csv", index=False)
    changes = [f"data.csv={tmp_path / 'series.csv'}", "data.protocol=ratio", "data.lookback=24", "data.horizon=4"]
    changes += ["train.steps=6", "train.validate_every=2", "train.keep=best", "train.patience=3"]
    task_of: list[ForecastTask] = []
    measured: list[int] = []
    original, in_order, batch = ForecastTask.__init__, Windows.in_order, Windows.batch

    def remembering(self: ForecastTask, *arguments: Any) -> None:
        original(self, *arguments)
        task_of.append(self)

    def is_test(windows: Windows) -> bool:
        return any(windows is task._windows.splits["test"] for task in task_of)

    def guarded(function: Any) -> Any:
        def call(self: Windows, *arguments: Any) -> Any:
            if is_test(self):
                raise OpenedError("the test windows were read")
            measured.append(len(self))
            return function(self, *arguments)

        return call

    monkeypatch.setattr(ForecastTask, "__init__", remembering)
    monkeypatch.setattr(Windows, "in_order", guarded(in_order))
    monkeypatch.setattr(Windows, "batch", guarded(batch))
    experiment = load_experiment("etth/dlinear", changes)
    result = train(experiment, tmp_path / "watched", watch=lambda *_: None)
    assert list(result["metrics"]) == ["validation"]
    assert measured
    with pytest.raises(OpenedError):
        train(experiment, tmp_path / "run")
    assert any("validation/mse" in row for row in _rows(tmp_path / "run"))


def _rows(run: Path) -> list[dict[str, Any]]:
    from flowbench.runs.folder import RunFolder

    return RunFolder(run).metrics()


def test_the_figure_on_training_images_is_not_of_the_held_out_ones(tmp_path: Path) -> None:
    result = train(load_experiment("real_nvp/digits", [*TINY, "train.keep=last"]), tmp_path / "run")
    assert result["metrics"]["train"]["bits_per_dim"]["n"] == 1437 - 60


def test_what_opens_splits_in_a_task_goes_through_the_guard() -> None:
    # The guard above stands in `flowbench.data.images`: a task that opened splits elsewhere would slip past it.
    assert density_task.open_images is data_images.open_images
    assert density_task.training_parts is data_images.training_parts
    assert not hasattr(density_task, "open_split")
    assert DensityTask.evaluate.__globals__["open_images"] is data_images.open_images
