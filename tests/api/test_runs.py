"""Trained on arrays and frames, and what a run gives: figures equal to those of files, and nothing printed."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import flowbench as fb
from flowbench.data import open_split
from flowbench.densities.model import DensityModel
from flowbench.errors import InputError

TINY = {"model": {"features": 4}, "train": {"steps": 4, "log_every": 2, "validate_every": 2}, "evaluate": {"draws": 2}}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    train, test = (open_split("digits", split).array for split in ("train", "test"))
    return {"train": train[:200], "test": test[:40], "holdout": train[200:230]}


@pytest.fixture(scope="module")
def digits(arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> fb.Run:
    """Real NVP on images in memory, saying nothing."""
    experiment = fb.experiment("real_nvp/digits", **TINY, data={"levels": 17, "holdout": 5})
    return fb.train(experiment, str(tmp_path_factory.mktemp("own") / "run"), data=arrays, progress=False)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    hours = np.arange(400)
    values = {"load": np.sin(hours / 24 * 2 * np.pi), "heat": np.cos(hours / 24 * 2 * np.pi) / 3}
    return pd.DataFrame(values, index=pd.date_range("2024-01-01", periods=400, freq="h", name="when"))


WINDOWS = {"data": {"protocol": "ratio", "lookback": 48, "horizon": 24}, "train": {"epochs": 2}}


@pytest.fixture(scope="module")
def series(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> fb.Run:
    experiment = fb.experiment("etth/nlinear", **WINDOWS)
    return fb.train(experiment, tmp_path_factory.mktemp("series") / "run", data=frame, progress=False)


def test_own_images_are_known_by_their_content_and_labelled(digits: fb.Run) -> None:
    result = digits.result
    assert result["dataset"].startswith("own-")
    assert (result["data_status"], result["budget"]) == ("own data", "custom")
    assert result["metrics"]["test"]["bits_per_dim"]["n"] == 40
    assert set(digits.experiment.data.model_dump()) == set(fb.experiment("real_nvp/digits").data.model_dump())


def test_holdout_is_what_validations_look_at(digits: fb.Run, arrays: dict[str, np.ndarray]) -> None:
    """A part of its own takes the place of images cut from the training part."""
    assert digits.experiment.data.holdout == 0
    validated = digits.metrics["validation/bits_per_dim"].dropna()
    # Of the last step: the weights that are reported.
    measured = digits.evaluate({"holdout": arrays["holdout"]})
    assert (measured.split, measured.n) == ("validation", 30)
    assert validated.iloc[-1] == pytest.approx(measured.value, abs=1e-12)
    assert digits.evaluate(split="holdout").value == measured.value


def test_the_holdout_of_a_known_set_is_cut_from_its_training_part(tmp_path: Path) -> None:
    run = fb.train(fb.experiment("real_nvp/digits", **TINY, data={"holdout": 40}), tmp_path / "run", progress=False)
    measured = run.evaluate(split="holdout")
    assert (measured.split, measured.n) == ("holdout", 40)
    assert run.metrics["validation/bits_per_dim"].dropna().iloc[-1] == pytest.approx(measured.value, abs=1e-12)


def test_arrays_are_measured_as_the_run_sees_its_own(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    bright = {part: (array * 15).astype(np.uint8) for part, array in arrays.items()}
    experiment = fb.experiment("independent/digits", data={"levels": None, "bits": 4})
    run = fb.train(experiment, tmp_path / "run", data=bright, progress=False)
    assert run.evaluate({"test": bright["test"]}).value == run.evaluate().value


def test_one_sample_tells_no_importance_weighted_bound(digits: fb.Run) -> None:
    with pytest.raises(InputError, match="importance is 1: give the number of samples, 2 or more"):
        digits.evaluate(importance=1)


def test_an_unfinished_run_is_called_what_it_is(digits: fb.Run, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    shutil.copytree(digits.path, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    measured = fb.Run(tmp_path / "run").evaluate({"test": arrays["test"]})
    assert any("not finished" in note or "stopped" in note or "step" in note for note in measured.notes)
    assert digits.evaluate({"test": arrays["test"]}).notes == ()


def test_the_date_column_of_a_frame_may_have_any_name(frame: pd.DataFrame, tmp_path: Path) -> None:
    named = frame.reset_index().rename(columns={"when": "Day"})
    run = fb.train(
        fb.experiment("etth/nlinear", "data.date=Day", **WINDOWS), tmp_path / "run", data=named, progress=False
    )
    assert run.result["metrics"]["test"]["mae"]["n"] > 0


def test_a_layout_with_channels_first_is_the_same_data(digits: fb.Run, arrays: dict[str, np.ndarray]) -> None:
    turned = {part: array.transpose(0, 3, 1, 2) for part, array in arrays.items()}
    again = fb.train(digits.experiment, digits.path, data={**turned, "layout": "NCHW"}, progress=False)
    assert again.path == digits.path  # finished, with the same config and data: it comes back at once


def test_images_in_memory_give_the_figure_of_the_set(tmp_path: Path) -> None:
    whole = {split: open_split("digits", split).array for split in ("train", "test")}
    own = fb.train(fb.experiment("independent/digits", data={"levels": 17}), tmp_path / "a", data=whole, progress=False)
    shipped = fb.train("independent/digits", tmp_path / "b", progress=False)
    for split in ("train", "test"):
        assert own.result["metrics"][split] == shipped.result["metrics"][split]


def test_evaluations_agree_with_the_result(digits: fb.Run, arrays: dict[str, np.ndarray]) -> None:
    figure = digits.result["metrics"]["test"]["bits_per_dim"]
    named = {"test": arrays["test"]}
    for measured in (
        digits.evaluate(),
        fb.evaluate(digits.path),
        fb.evaluate(digits, named),
        digits.evaluate(arrays["test"]),
    ):
        assert (measured.value, measured.stderr, measured.n) == (figure["value"], figure["stderr"], figure["n"])
        assert measured.values.shape == (40,)
        assert measured.values.mean() == pytest.approx(figure["value"], abs=1e-12)
        assert {**measured.labels, "data_status": "own data"} == measured.labels
        assert {key: measured.labels[key] for key in ("draws", "levels", "weights", "bound")} == {
            key: figure[key] for key in ("draws", "levels", "weights", "bound")
        }
    model = fb.evaluate(digits.model, named, draws=2)
    assert model.value == figure["value"]
    assert digits.evaluate(draws=1, importance=4).metrics["bits_per_dim_importance"]["K"] == 4


def test_another_known_set_is_measured_by_name(digits: fb.Run) -> None:
    measured = digits.evaluate("digits")
    assert (measured.n, measured.labels["data_status"]) == (360, "verified")
    assert measured.value == fb.evaluate(digits.model, "digits", draws=2).value


def test_a_run_hands_on_to_its_model(digits: fb.Run, arrays: dict[str, np.ndarray]) -> None:
    run = fb.load_run(str(digits.path))
    assert isinstance(run.model, DensityModel)
    assert not run.model.training
    images = torch.from_numpy(arrays["test"]).permute(0, 3, 1, 2)
    bits = run.bits_per_dim(images, generator=torch.Generator().manual_seed(0))
    nats = run.log_prob(images, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(bits, -nats / (64 * np.log(2)))
    assert (run.levels, run.dimensions) == (17, 64)
    assert run.sample(3, temperature=0.5, generator=torch.Generator().manual_seed(0)).shape == (3, 1, 8, 8)
    assert pickle.loads(pickle.dumps(run)).path == run.path
    with pytest.raises(AttributeError):
        _ = run.nothing


def test_metrics_and_figures_are_what_lies_in_the_folder(digits: fb.Run) -> None:
    assert digits.metrics["train/bits_per_dim"].notna().sum() == 2
    assert digits.metrics["step"].max() == 4
    assert digits.figures["samples"] == digits.path / "figures" / "samples.png"


@pytest.mark.pictures
def test_a_run_shows_itself_in_a_notebook(digits: fb.Run, series: fb.Run) -> None:
    figure = digits.result["metrics"]["test"]["bits_per_dim"]
    shown = digits._repr_html_()
    assert f"<b>{figure['value']:.4f} ± {figure['stderr']:.4f} bits/dim</b>" in shown
    assert "own data" in shown
    assert "n 40, draws 2, levels 17" in shown
    assert "<svg" in shown
    assert "MAE</b>" in series._repr_html_()


def test_a_frame_is_what_its_file_is(series: fb.Run, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.rename_axis("date").to_csv(tmp_path / "mine.csv")
    experiment = fb.experiment("etth/nlinear", f"data.csv={tmp_path / 'mine.csv'}", **WINDOWS)
    other = fb.train(experiment, tmp_path / "run", progress=False)
    assert series.result["metrics"] == other.result["metrics"]
    assert series.result["data_fingerprint"] == other.result["data_fingerprint"]
    assert (series.result["data_status"], other.result["data_status"]) == ("own data", "unverified")
    column = frame.reset_index(names="date")
    assert fb.train(series.experiment, series.path, data=column, progress=False).path == series.path


def test_forecasts_are_frames(series: fb.Run, frame: pd.DataFrame) -> None:
    forecast = series.forecast()
    assert list(forecast["date"]) == list(pd.date_range(frame.index[-1], periods=25, freq="h")[1:])
    assert forecast["load_forecast"].between(-2, 2).all()
    assert len(series.forecast(frame.iloc[:200], rolling=True)) == 200 - 48
    assert series.evaluate().value == series.result["metrics"]["test"]["mae"]["value"]
    assert series.evaluate(frame).values.mean() == pytest.approx(series.evaluate().value)
    assert series.evaluate().stderr is None


def test_export_and_compare(digits: fb.Run, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    other = fb.train(
        fb.experiment("independent/digits", data={"levels": 17}), tmp_path / "other", data=arrays, progress=False
    )
    exported = fb.load_run(digits.export(str(tmp_path / "out"), licence="mit"))
    assert exported.evaluate(arrays["test"]).value == digits.evaluate().value
    compared = digits.compare(other, out=tmp_path / "page")
    values = [run.result["metrics"]["test"]["bits_per_dim"]["value"] for run in (digits, other)]
    assert compared["value"].to_list() == pytest.approx(values)
    assert compared["verdict"].to_list() == ["worse", "worse"]
    columns = ["run", "metric", "split", "value", "bound", "n", "difference", "stderr", "p_value", "verdict"]
    assert list(compared.columns) == columns
    assert compared["difference"].iloc[1] == pytest.approx(values[1] - values[0])
    assert compared.page == tmp_path / "page" / "compare.html"
    assert compared.page.is_file()
    assert compared.words[-1].startswith("verdict: A is worse than B")
    assert type(compared[["run"]]).__name__ == "DataFrame"


def test_nothing_is_printed(arrays: dict[str, np.ndarray], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fb.train(fb.experiment("real_nvp/digits", **TINY), tmp_path / "run", data=arrays, progress=False).evaluate()
    assert capfd.readouterr() == ("", "")


def test_another_process_is_told_to_give_the_data_again(digits: fb.Run, series: fb.Run) -> None:
    code = f"""if True:
        import sys
        import flowbench as fb
        for path, call in (({str(digits.path)!r}, "evaluate"), ({str(series.path)!r}, "forecast")):
            run = fb.load_run(path)
            try:
                getattr(run, call)()
            except fb.errors.InputError as error:
                print(error)
        # What trainings and forecasts do not need costs their users no seconds.
        print(sorted({{"flowbench.report", "mlflow", "optuna"}} & set(sys.modules)))
    """
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()
    words = "was trained on own data that no file holds: give them again as data="
    assert lines == [f"{digits.path}: {words}", f"{series.path}: {words}", "[]"]


BAD_IMAGES = {
    "no train": ({"test": 0}, "there is no 'train'"),
    "floats": ({"train": np.zeros((9, 8, 8, 1)), "test": 0}, "train: float64: give the uint8 grey levels"),
    "layout": ({"train": np.zeros((9, 3, 8, 8), np.uint8), "test": 0}, '"layout": "NCHW"'),
    "word": ({"train": 0, "test": 0, "layout": "NCWH"}, "layout: 'NCWH'; did you mean NCHW?"),
    "levels": (
        {"train": np.full((9, 8, 8, 1), 17, np.uint8), "test": 0},
        "train: values reach 17, but data.levels is 17",
    ),
    "shapes": ({"train": np.zeros((9, 4, 8, 1), np.uint8), "test": 0}, "images of several shapes"),
    "part": ({"train": 0, "test": 0, "validate": 0}, "'validate' is none of its parts"),
    "frame": (pd.DataFrame(), "a frame is a series"),
}


@pytest.mark.parametrize(("data", "words"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_images_are_refused_in_one_line(
    data: object, words: str, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    if isinstance(data, dict):
        data = {part: arrays["test"] if isinstance(array, int) else array for part, array in data.items()}
    with pytest.raises(InputError) as caught:
        fb.train(fb.experiment("real_nvp/digits", data={"levels": 17}), tmp_path / "run", data=data)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_bad_series_and_runs_are_refused_in_one_line(digits: fb.Run, series: fb.Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="list: a forecaster takes a pandas DataFrame"):
        fb.train("etth/nlinear", tmp_path / "run", data=[1, 2])
    with pytest.raises(InputError, match="no date column"):
        fb.train("etth/nlinear", tmp_path / "run", data=pd.DataFrame({"a": [1.0, 2.0]}))
    with pytest.raises(InputError, match="a density run does not forecast"):
        digits.forecast("etth1")
    with pytest.raises(InputError, match="a forecaster of points has no samples"):
        series.sample(3)
    with pytest.raises(InputError, match="a model knows of no images"):
        fb.evaluate(digits.model)
    with pytest.raises(InputError, match="no run 'nowhere'"):
        fb.load_run("nowhere")
    with pytest.raises(InputError, match="holds a run of another config"):
        fb.train("independent/digits", digits.path)
    with pytest.raises(InputError, match=r"run_dir: 'train\.steps=20' reads like an override: .* takes it"):
        fb.train("independent/digits", "train.steps=20")


@pytest.mark.slow
def test_a_table_is_the_same_in_this_process_and_side_by_side(tmp_path: Path) -> None:
    tables = [
        fb.reproduce(
            "quick",
            "train.steps=2",
            "evaluate.draws=1",
            only="digits",
            out=tmp_path / str(jobs),
            jobs=jobs,
            progress=False,
        )
        for jobs in (1, 2)
    ]
    done = [table[table["status"] == "done"] for table in tables]
    assert list(done[0]["experiment"]) == [f"{name}/digits" for name in ("independent", "real_nvp", "glow", "pixelcnn")]
    assert list(done[0]["value"]) == list(done[1]["value"])
    assert tables[1].page.is_file()
