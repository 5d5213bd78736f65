"""Forecasting as people type it: train on a file of one's own, forecast, roll over a second file, test on it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flowbench.__main__ import main

Call = Callable[..., tuple[int, str, str]]
SMALL = ["data.protocol=ratio", "data.lookback=24", "data.horizon=12", "train.epochs=1"]


def write(path: str, rows: int, seed: int) -> pd.DataFrame:
    hours = np.arange(rows)[:, None]
    noise = np.random.default_rng(seed).normal(size=(rows, 3))
    values = (np.sin(2 * np.pi * hours / 24 + np.arange(3)) + 0.3 * noise + seed) * [1, 5, 20]
    frame = pd.DataFrame(values, columns=["HUFL", "MUFL", "OT"])
    frame.insert(0, "date", pd.date_range("2020-01-01", periods=rows, freq="1h").strftime("%Y-%m-%d %H:%M:%S"))
    frame.to_csv(path, index=False)
    return frame


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    monkeypatch.setenv("FLOWBENCH_OFFLINE", "1")

    def flowbench(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flowbench", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return flowbench


@pytest.mark.parametrize(("features", "targets"), [("M", ["HUFL", "MUFL", "OT"]), ("MS", ["OT"])])
def test_forecasts_of_a_file_of_ones_own(call: Call, features: str, targets: list[str]) -> None:
    write("first.csv", 300, seed=0)
    second = write("second.csv", 100, seed=1)
    train = ["train", "etth/nlinear", "data.csv=first.csv", f"data.features={features}", *SMALL, "--run-dir", "a"]
    assert call(*train)[0] == 0

    code, out, _ = call("forecast", "a", "--json")
    following = json.loads(out)
    assert (code, following["rows"], following["mae"]) == (0, 12, None)
    assert (pd.read_csv(following["csv"]).shape, Path(following["plot"]).is_file()) == (
        (12, 1 + 2 * len(targets)),
        True,
    )

    code, out, _ = call("forecast", "a", "--rolling", "--data", "second.csv", "--json")
    rolled = json.loads(out)
    frame = pd.read_csv(rolled["csv"])
    assert (code, list(frame)) == (0, ["date", *targets, *(f"{target}_forecast" for target in targets)])
    np.testing.assert_allclose(frame[targets], second[targets].iloc[24:])
    assert list(frame["date"]) == list(second["date"].iloc[24:])
    error = np.abs(frame[[f"{target}_forecast" for target in targets]].to_numpy() - frame[targets].to_numpy())
    assert rolled["mae_original"] is None
    assert rolled["mae_per_column"] == pytest.approx(dict(zip(targets, error.mean(axis=0), strict=True)))
    said = call("forecast", "a", "--rolling", "--data", "second.csv")[1]
    assert f"(normalized), in original units {targets[0]} {error[:, 0].mean():.4f}" in said

    assert call("figures", "a")[0] == 0
    assert call("report", "a", "--out", "page")[0] == 0
    page = Path("page/report.html").read_text()
    for title in ("training loss per epoch", "test part", "fit on the training part", "after the file"):
        assert title in page
    assert "rolling forecast of second.csv" in page


def test_another_file_is_tested_under_the_trainings_scaler_and_its_own(call: Call) -> None:
    write("first.csv", 300, seed=0)
    second = write("second.csv", 300, seed=1)
    assert call("train", "etth/repeat_last", "data.csv=first.csv", *SMALL[:3], "--run-dir", "a")[0] == 0
    code, out, _ = call("evaluate", "a", "--data", "second.csv", "--json")
    metrics = json.loads(out)["metrics"]["test"]
    values = second[["HUFL", "MUFL", "OT"]].to_numpy()
    origins = range(240, 300 - 12 + 1)
    error = np.mean([np.abs(values[o - 1] - values[o : o + 12]).mean(axis=0) for o in origins], axis=0)
    assert code == 0
    assert metrics["mae"]["n"] == len(origins)
    assert metrics["mae_own_scaler"]["value"] == pytest.approx((error / values[:210].std(axis=0)).mean(), rel=1e-5)
    assert metrics["mae"]["value"] != pytest.approx(metrics["mae_own_scaler"]["value"], rel=1e-3)


def test_units_that_differ_are_never_averaged_and_a_declared_one_is(call: Call) -> None:
    write("first.csv", 300, seed=0)
    train = ["train", "etth/mean", "data.csv=first.csv", *SMALL[:3]]
    _, out, _ = call(*train, "--run-dir", "a", "--json")
    apart = json.loads(out)["metrics"]["test"]["mae_original"]
    assert (apart["value"], set(apart["per_column"])) == (None, {"HUFL", "MUFL", "OT"})
    assert call("evaluate", "a", "--split", "validation")[0] == 0
    out = call(*train, "data.unit=kW", "--run-dir", "b")[1]
    mean = np.mean(list(apart["per_column"].values()))
    assert f"test: mae_original {mean:.4f} kW" in out
    assert "kW" in call("forecast", "b", "--rolling")[1]
    assert call("export", "a", "--out", "card")[0] == 0
    card = Path("card/README.md").read_text()
    assert f"| mae_original | HUFL {apart['per_column']['HUFL']:.4f}, MUFL " in card
    assert "name: mae_original/OT" in card
    assert "null" not in card
    assert "&id" not in card
    assert "`flowbench forecast card --data FILE.csv`" in card
    assert call("forecast", "card", "--data", "first.csv")[0] == 0

    result = json.loads(Path("a/result.json").read_text())  # as it was stored before
    result["metrics"]["test"]["mae_original"] = {"value": 6.25, "stderr": None, "n": 49}
    Path("a/result.json").write_text(json.dumps(result))
    assert "test: mae_original 6.2500  (n 49, mean over columns)" in call(*train, "--run-dir", "a")[1]
    assert call("export", "a", "--out", "old")[0] == 0
    assert "| mae_original | 6.2500 | n 49, mean over columns |" in Path("old/README.md").read_text()


def test_a_stuck_sensor_is_told_of_wherever_the_mae_is(call: Call) -> None:
    frame = write("first.csv", 300, seed=0)
    frame.loc[250:285, "MUFL"] = 4.5
    frame.to_csv("stuck.csv", index=False)
    code, out, _ = call("train", "etth/mean", "data.csv=stuck.csv", *SMALL[:3], "--run-dir", "a")
    (line,) = [line for line in out.splitlines() if "without_stuck" in line]
    assert (code, line.startswith("test: mae_without_stuck 0.")) == (0, True)
    assert "over the windows without constant runs, in which lie 60 % of MUFL" in line
    assert call("report", "a", "--out", "page")[0] == 0
    page = Path("page/report.html").read_text()
    assert "60 % of MUFL (test rows) keep one value over a day or more; MAE of the windows without them 0." in page

    code, out, _ = call("data", "verify", "stuck.csv")
    assert (code, out.startswith("stuck stuck.csv: 300, unverified (")) == (0, True)
    assert "in all rows: 12 % of MUFL" in out
    assert "in the ratio protocol's test rows: 60 % of MUFL" in out
    (state,) = json.loads(call("data", "verify", "stuck.csv", "--json")[1])
    assert state["constant_runs"] == {"all": {"MUFL": 0.12}, "test": {"MUFL": 0.6}, "protocol": "ratio"}

    assert "stuck" not in call("train", "etth/mean", "data.csv=first.csv", *SMALL[:3], "--run-dir", "b")[1]
    assert "constant runs" not in call("data", "verify", "first.csv")[1]
    assert call("data", "verify", "none.csv")[0] == 2


def test_a_file_as_others_write_it_gives_the_same_figures_and_forecasts_are_dated_on(call: Call) -> None:
    frame = write("plain.csv", 300, seed=0)
    dates = pd.date_range("2020-03-25", periods=300, freq="1h", tz="Europe/Berlin")
    other = frame.rename(columns={"date": "when"}).assign(when=[date.isoformat() for date in dates])[::-1]
    other.to_csv("other.csv")  # with pandas' index, the newest row first
    train = ["train", "etth/repeat_last", *SMALL[:3]]
    assert call(*train, "data.csv=plain.csv", "--run-dir", "plain")[0] == 0
    code, _, errors = call(*train, "data.csv=other.csv", "data.date=when", "--run-dir", "other")
    assert code == 0
    assert [line[:16] for line in errors.splitlines() if line.startswith("note")] == ["note: other.csv:"] * 2
    plain, found = (json.loads(Path(run, "result.json").read_text()) for run in ("plain", "other"))
    assert found["metrics"] == plain["metrics"]
    assert found["config_sha256"] != plain["config_sha256"]
    code, out, _ = call("forecast", "other", "--data", "other.csv", "--json")
    following = pd.read_csv(json.loads(out)["csv"])["date"]
    assert (code, following[0]) == (0, str((dates[-1] + pd.Timedelta(hours=1)).tz_convert("UTC")))


def test_an_hourly_model_on_a_daily_file_says_so(call: Call) -> None:
    frame = write("hourly.csv", 300, seed=0)
    frame.assign(date=pd.date_range("2020-01-01", periods=300).astype(str)).to_csv("daily.csv", index=False)
    assert call("train", "etth/repeat_last", "data.csv=hourly.csv", *SMALL[:3], "--run-dir", "a")[0] == 0
    for command in ("evaluate", "forecast"):
        assert call(command, "a", "--data", "hourly.csv")[2] == ""
        code, _, errors = call(command, "a", "--data", "daily.csv")
        assert code == 0
        assert "note: daily.csv has steps of 1 days 00:00:00" in errors
    environment = json.loads(Path("a/environment.json").read_text())
    del environment["data"]["step"]  # a run made before
    Path("a/environment.json").write_text(json.dumps(environment))
    assert call("forecast", "a", "--data", "hourly.csv")[2] == ""
    assert "trained on 24 rows a day" in call("forecast", "a", "--data", "daily.csv")[2]


@pytest.mark.parametrize("features", ["M", "MS"])
def test_a_valve_that_moves_after_the_training_rows_is_measured_in_its_own_unit_and_named(
    call: Call, features: str
) -> None:
    frame = write("first.csv", 300, seed=0)
    frame.insert(1, "valve", np.where(np.arange(300) < 290, 0.1, 0.2))
    frame.to_csv("valve.csv", index=False)
    inputs = ["data.csv=valve.csv", f"data.features={features}", *SMALL[:3]]
    code, _, errors = call("train", "etth/repeat_last", *inputs, "--run-dir", "a")
    assert code == 0
    (note,) = [line for line in errors.splitlines() if line.startswith("note: ")]
    assert "valve" in note
    metrics = json.loads(Path("a/result.json").read_text())["metrics"]
    if features == "M":
        assert metrics["validation"]["mae"]["per_column"]["valve"] == pytest.approx(0, abs=1e-12)
        # The last 10 of the 49 windows end 1 … 10 rows after the step; each of those rows is 0.1 off.
        expected = 0.1 * sum(range(1, 11)) / 12 / 49
        assert metrics["test"]["mae"]["per_column"]["valve"] == pytest.approx(expected, rel=1e-5)
    code, _, errors = call("evaluate", "a", "--data", "valve.csv", "--json")
    assert code == 0
    content = json.loads(Path("a/evaluations/test-valve.json").read_text())
    assert content["metrics"]["test"]["mae_own_scaler"]["value"] == pytest.approx(
        content["metrics"]["test"]["mae"]["value"], rel=1e-6
    )
    assert ["valve" in note for note in content["notes"]] == [True] * (2 if features == "M" else 1)
    code, out, errors = call("forecast", "a", "--json")
    assert (code, ["valve" in note for note in json.loads(out)["notes"]]) == (0, [True])


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        (1, "date,HUFL,MUFL,OIL", "no column 'OT'"),
        (1, "hours,HUFL,MUFL,OT", "no date column"),
        (50, "2020-01-03 00:00:00,1,much,3", "line 50: MUFL: 'much' is no finite number"),
        (50, "2020-01-03 00:00:00,1,,3", "line 50: MUFL: the cell is empty or NaN"),
        (50, "2020-01-03 07:00:00,1,2,3", "line 50: date"),
    ],
)
def test_a_bad_file_is_one_line_and_leaves_nothing_behind(call: Call, line: int, text: str, words: str) -> None:
    write("first.csv", 300, seed=0)
    lines = Path("first.csv").read_text().splitlines()
    Path("first.csv").write_text("\n".join([*lines[: line - 1], text, *lines[line:]]))
    arguments = ["train", "etth/nlinear", "data.csv=first.csv", "data.features=S", *SMALL]
    code, out, errors = call(*arguments)
    (said,) = [line for line in errors.splitlines() if line.startswith("flowbench: ")]
    assert (code, out, "Traceback" in errors) == (2, "", False)
    assert "first.csv" in said or "data.target" in said
    assert words in said
    assert not Path("runs").exists()


def test_a_forecast_that_cannot_be_made_is_one_line(call: Call) -> None:
    write("first.csv", 300, seed=0)
    write("short.csv", 20, seed=0)
    assert call("train", "etth/repeat_last", "data.csv=first.csv", *SMALL[:3], "--run-dir", "a")[0] == 0
    assert call("train", "independent/digits", "--run-dir", "digits")[0] == 0
    for arguments, words in (
        (["a", "--data", "short.csv"], "20 rows, but the model needs 24"),
        (["a", "--data", "none.csv"], "none.csv: cannot be read"),
        (["a", "--data", "first.txt"], "first.txt: cannot be read"),
        (["digits"], "does not forecast"),
        (["nothing"], "no run 'nothing'"),
    ):
        code, _, errors = call("forecast", *arguments)
        assert code == 2
        assert words in errors
    assert not Path("a/forecasts").exists()
    code, _, errors = call("evaluate", "a", "--data", "first.txt")
    assert (code, "--data first.txt: neither a CSV file" in errors) == (2, True)


@pytest.mark.data
def test_a_run_on_etth1_is_tested_on_etth2(call: Call, require_data: Callable[[str], Path]) -> None:
    require_data("etth1")
    require_data("etth2")
    assert call("train", "etth/repeat_last", "--run-dir", "a")[0] == 0
    code, out, _ = call("evaluate", "a", "--data", "etth2", "--json")
    metrics = json.loads(out)["metrics"]["test"]
    # Repeating the last row is the same under any scaler: this is ETTh2's own reference figure.
    assert (code, metrics["mae"]["n"]) == (0, 2_785)
    assert metrics["mae_own_scaler"]["value"] == pytest.approx(0.421621, abs=1e-6)


@pytest.mark.parametrize("rolling", [False, True])
def test_quantiles_and_paths_of_a_distribution_are_written(call: Call, rolling: bool) -> None:
    write("first.csv", 300, seed=0)
    tiny = ["model.features=8", "model.couplings=2"]
    assert call("train", "etth/nlinear-flow", "data.csv=first.csv", *SMALL, *tiny, "--run-dir", "a")[0] == 0
    asked = ["forecast", "a", "--samples", "100", "--quantiles", "0.05,0.5,0.95", *(["--rolling"] if rolling else [])]
    code, out, _ = call(*asked, "--json")
    done = json.loads(out)
    frame = pd.read_csv(done["csv"])
    assert code == 0
    assert (done["rows"], done["mae"] is None) == ((276, False) if rolling else (12, True))
    assert len(frame) == done["rows"]
    for column in ("HUFL", "MUFL", "OT"):
        low, median, high = (frame[f"{column}_q{level}"] for level in ("0.05", "0.5", "0.95"))
        paths = frame[[f"{column}_path{number}" for number in range(1, 101)]].to_numpy()
        assert (low < median).all()
        assert (median < high).all()
        np.testing.assert_allclose(median, np.quantile(paths, 0.5, axis=1, method="weibull"), rtol=1e-6)
        np.testing.assert_allclose(low, np.quantile(paths, 0.05, axis=1, method="weibull"), rtol=1e-6)
        assert frame[f"{column}_forecast"].between(paths.min(axis=1), paths.max(axis=1)).all()
    before = Path(done["csv"]).read_bytes()
    assert call(*asked)[0] == 0
    assert Path(done["csv"]).read_bytes() == before


def test_what_no_distribution_gives_is_refused_in_one_line(call: Call) -> None:
    write("first.csv", 300, seed=0)
    assert call("train", "etth/mean", "data.csv=first.csv", *SMALL[:3], "--run-dir", "points")[0] == 0
    assert call("train", "etth/empirical", "data.csv=first.csv", *SMALL[:3], "--run-dir", "paths")[0] == 0
    for run, options, words in (
        ("points", ["--samples", "3"], "this model forecasts points"),
        ("points", ["--quantiles", "0.5"], "this model forecasts points"),
        ("paths", ["--quantiles", "0.5,1.5"], "write numbers between 0 and 1"),
        ("paths", ["--quantiles", "0.5,0.50"], "one stands twice"),
        ("paths", ["--samples", "19", "--quantiles", "0.01"], "19 paths do not tell it: give --samples 99 or more"),
    ):
        code, out, err = call("forecast", run, *options)
        assert (code, out) == (2, "")
        assert words in err
    assert not Path("paths/forecasts").exists()
