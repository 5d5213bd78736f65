"""`flowbench compare` from run folders: what is read, what is refused, what is said."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flowbench.__main__ import main
from flowbench.comparison.compared_runs import compare_runs
from flowbench.comparison.entries import field_of_runs
from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.evaluation.measuring import Request
from flowbench.runs.folder import RunFolder
from flowbench.runs.model_card import _head as model_card
from flowbench.tasks.loading import evaluate_run
from flowbench.trained.exporting import export_run
from flowbench.training.loop import train

TINY = ["model.features=4", "evaluate.draws=1", "train.log_every=1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train(load_experiment("independent/digits"), folder / "independent")
    for seed in (0, 1):
        experiment = load_experiment("real_nvp/digits", [*TINY, "train.steps=3", f"seed={seed}"])
        train(experiment, folder / "flows" / f"seed{seed}")
    return folder


def test_the_better_model_is_named_with_the_figures_of_both(runs: Path) -> None:
    compared = compare_runs(str(runs / "independent"), str(runs / "flows" / "seed0"))
    assert compared.paired.n == 360
    for number, name in enumerate(("independent", "flows/seed0")):
        figure = RunFolder(runs / name).result["metrics"]["test"]["bits_per_dim"]["value"]
        assert compared.paired.values[number] == pytest.approx(figure, abs=1e-9)
    assert compared.paired.verdict == "better"
    assert compared.verdict.startswith("verdict: A is better than B as trained here (one run")
    assert compared.lines[3] == (
        "A is the likelihood itself; B is a bound: uniform dequantization: a bound is at or above the model's own value"
    )
    assert json.dumps(compared.as_json())


def test_a_folder_of_seeds_is_compared_over_seeds(runs: Path) -> None:
    compared = compare_runs(str(runs / "flows"), str(runs / "flows"))
    assert compared.paired.seeds == (2, 2)
    assert compared.paired.seed_stderr is not None
    assert any("over seeds" in line for line in compared.lines)


def test_two_seeds_of_one_config_are_a_tie_whatever_the_images_say(runs: Path) -> None:
    compared = compare_runs(str(runs / "flows" / "seed0"), str(runs / "flows" / "seed1"))
    assert compared.lines[0].endswith("one run each")
    assert compared.verdict.startswith("verdict: tie: A and B are seeds of one config")
    assert compared.as_json()["verdict"] == "tie"


def test_an_exported_model_is_compared_as_its_run_is(runs: Path, tmp_path: Path) -> None:
    export_run(RunFolder(runs / "flows" / "seed0"), tmp_path / "exported")
    same = compare_runs(str(tmp_path / "exported"), str(runs / "flows" / "seed0"))
    assert (same.paired.difference, same.paired.stderr) == (0.0, 0.0)


def test_what_cannot_be_compared_is_one_line(runs: Path) -> None:
    with pytest.raises(InputError, match="no run 'nothing'"):
        compare_runs("nothing", str(runs / "independent"))
    with pytest.raises(InputError, match="both are the run"):
        compare_runs(str(runs / "independent"), str(runs / "flows" / ".." / "independent"))
    with pytest.raises(InputError, match="has no mae on test; it has: test bits_per_dim"):
        compare_runs(str(runs / "independent"), str(runs / "flows" / "seed0"), metric="mae")
    with pytest.raises(InputError, match="on different data"):
        compare_runs(str(moved(runs / "independent", runs.parent / "moved")), str(runs / "flows" / "seed0"))


def moved(run: Path, to: Path) -> Path:
    import shutil

    shutil.copytree(run, to, dirs_exist_ok=True)
    for path in (to / "evaluations").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data_fingerprint": "0" * 64}))
    return to


def forecasts(folder: Path, horizon: int) -> None:
    """Train two forecasters on 900 hours of a file."""
    hours = np.arange(900)
    noise = np.random.default_rng(0).normal(size=900)
    frame = pd.DataFrame(
        {"date": pd.date_range("2024-01-01", periods=900, freq="h"), "x": np.sin(hours / 3.8) + noise / 9}
    )
    frame.to_csv(folder / "mine.csv", index=False)
    windows = [f"data.csv={folder / 'mine.csv'}", "data.protocol=ratio", "data.lookback=48", f"data.horizon={horizon}"]
    for name in ("seasonal_naive", "mean"):
        train(load_experiment(f"etth/{name}", windows), folder / name)


def test_forecasts_are_compared_by_windows_with_a_hac_variance(tmp_path: Path) -> None:
    forecasts(tmp_path, horizon=6)
    compared = compare_runs(str(tmp_path / "seasonal_naive"), str(tmp_path / "mean"))
    assert (compared.unit, compared.metric, compared.paired.n) == ("windows", "mae", 175)
    assert compared.paired.verdict == "better"
    with pytest.raises(InputError, match="--metric mae_original: not kept for each item"):
        compare_runs(str(tmp_path / "mean"), str(tmp_path / "seasonal_naive"), metric="mae_original")
    squared = compare_runs(str(tmp_path / "mean"), str(tmp_path / "seasonal_naive"), metric="mse")
    assert squared.paired.verdict == "worse"


def test_forecasts_of_other_columns_steps_or_protocols_are_not_compared(tmp_path: Path) -> None:
    forecasts(tmp_path, horizon=6)
    frame = pd.read_csv(tmp_path / "mine.csv").assign(y=lambda frame: frame["x"] ** 2)
    frame.to_csv(tmp_path / "mine.csv", index=False)
    mine = [f"data.csv={tmp_path / 'mine.csv'}", "data.protocol=ratio", "data.lookback=48", "data.horizon=6"]
    train(load_experiment("etth/mean", [*mine, "data.target=x"]), tmp_path / "both")
    others = {
        "columns, x, y and x": ["data.features=S", "data.target=x"],
        "horizons, 6 and 12": ["data.horizon=12"],
        "protocols, ratio and report": ["data.protocol=report"],
    }
    for number, (said, changes) in enumerate(others.items()):
        other = tmp_path / str(number)
        train(load_experiment("etth/repeat_last", [*mine, *changes]), other)
        with pytest.raises(InputError, match=f"forecasts of different {said}: not comparable"):
            compare_runs(str(tmp_path / "both"), str(other))
        with pytest.raises(InputError, match=f"the runs: forecasts of different {said}"):
            field_of_runs([str(tmp_path / "both"), str(other)], "Runs")


def test_too_few_horizons_are_no_verdict_in_words_and_in_json(tmp_path: Path) -> None:
    forecasts(tmp_path, horizon=24)
    compared = compare_runs(str(tmp_path / "seasonal_naive"), str(tmp_path / "mean"))
    assert compared.verdict == (
        "verdict: none: 157 overlapping windows are 6.5 independent horizons, too few for an error; "
        "240 windows or more allow a verdict"
    )
    assert compared.lines[-2] == f"A − B = {compared.paired.difference:+.4f}"
    content = json.loads(json.dumps(compared.as_json()))
    assert (content["verdict"], content["paired"]["stderr"]) == ("no verdict", None)


def test_distributions_are_compared_by_their_scores(tmp_path: Path) -> None:
    forecasts(tmp_path, horizon=6)
    small = [f"data.csv={tmp_path / 'mine.csv'}", "data.protocol=ratio", "data.lookback=48", "data.horizon=6"]
    train(load_experiment("etth/gaussian", [*small, "train.epochs=4", "optim.lr=0.02"]), tmp_path / "gaussian")
    train(load_experiment("etth/gaussian", [*small, "train.epochs=0"]), tmp_path / "untrained")
    train(load_experiment("etth/empirical", small), tmp_path / "empirical")
    names = [str(tmp_path / name) for name in ("gaussian", "untrained", "empirical", "mean")]
    for metric in ("nll", "crps"):
        compared = compare_runs(names[0], names[1], metric=metric)
        assert (compared.metric, compared.paired.n, compared.paired.verdict) == (metric, 175, "better")
        result = json.loads((tmp_path / "gaussian" / "result.json").read_text())
        assert compared.paired.values[0] == pytest.approx(result["metrics"]["test"][metric]["value"])
    assert compare_runs(names[0], names[2], metric="crps").paired.n == 175
    with pytest.raises(InputError, match="empirical has no density, so no nll: take crps"):
        compare_runs(names[0], names[2], metric="nll")
    with pytest.raises(InputError, match="has no crps on test"):
        compare_runs(names[0], names[3], metric="crps")
    with pytest.raises(InputError, match="--metric coverage_90: not kept for each item"):
        compare_runs(names[0], names[2], metric="coverage_90")


HELD_OUT = [*TINY, "data.holdout=287", "train.steps=4", "train.validate_every=2", "train.checkpoint_every=4"]


class PrunedError(Exception):
    """Raised by a test where a pruner would give up."""


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial that came to its end, one that was pruned at its first validation, and a run in full."""

    def prune(step: int, figures: Mapping[str, float]) -> None:
        raise PrunedError

    folder = tmp_path_factory.mktemp("trials")
    train(load_experiment("real_nvp/digits", HELD_OUT), folder / "complete", watch=lambda step, figures: None)
    with pytest.raises(PrunedError):
        train(load_experiment("real_nvp/digits", [*HELD_OUT, "seed=1"]), folder / "pruned", watch=prune)
    train(load_experiment("real_nvp/digits", [*HELD_OUT, "evaluate.limit=40"]), folder / "full")
    return folder


def test_trials_are_compared_by_the_images_that_chose_them_pruned_ones_as_they_stood(trials: Path) -> None:
    compared = compare_runs(str(trials / "complete"), str(trials / "pruned"))
    assert (compared.split, compared.paired.n) == ("holdout", 287)
    figure = RunFolder(trials / "complete").result["metrics"]["holdout"]["bits_per_dim"]["value"]
    assert compared.paired.values[0] == pytest.approx(figure, abs=1e-9)
    logged = [row["validation/bits_per_dim"] for row in RunFolder(trials / "pruned").metrics()
              if "validation/bits_per_dim" in row]  # fmt: skip
    assert compared.paired.values[1] == pytest.approx(logged[-1], abs=1e-9)
    assert compared.lines[3] == f"{trials / 'pruned'}: not finished: as it stood at step 2"
    assert json.dumps(compared.as_json())


def asked_for(*names: Path, split: str | None = None) -> list[str]:
    """Return the command that a comparison asks for."""
    with pytest.raises(InputError) as refused:
        compare_runs(*map(str, names), split=split)
    return shlex.split(str(refused.value)[str(refused.value).index("flowbench ") :])


def test_what_is_not_measured_alike_yet_names_a_command_that_works(
    trials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(words: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code

    command = asked_for(trials / "complete", trials / "full")
    assert command == ["flowbench", "evaluate", str(trials / "full"), "--split", "holdout"]
    run(command)
    command = asked_for(trials / "complete", trials / "full")
    assert command == ["flowbench", "evaluate", str(trials / "complete"), "--split", "holdout", "--limit", "40"]
    run(command)
    assert compare_runs(str(trials / "complete"), str(trials / "full")).paired.n == 40
    never = asked_for(trials / "full", trials / "pruned", split="test")
    assert never == ["flowbench", "train", str(trials / "pruned" / "config.yaml"), "trains", "it"]


def linear(folder: Path, name: str, csv: Path, *changes: str) -> str:
    settings = [f"data.csv={csv}", "data.protocol=report", "data.lookback=24", "data.horizon=6", "train.epochs=1"]
    train(load_experiment("etth/nlinear", [*settings, *changes]), folder / name)
    return str(folder / name)


def hourly(path: Path, *, rows: int = 400, scale: float = 1.0, seed: int = 0) -> Path:
    values = np.sin(np.arange(rows) / 4) + 0.1 * np.random.default_rng(seed).normal(size=rows)
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=rows, freq="h"), "OT": scale * values})
    frame.to_csv(path, index=False)
    return path


def test_windows_of_unlike_lookbacks_are_paired_by_the_row_that_they_forecast_first(tmp_path: Path) -> None:
    csv = hourly(tmp_path / "mine.csv")
    short, long = linear(tmp_path, "short", csv), linear(tmp_path, "long", csv, "data.lookback=36")
    compared = compare_runs(short, long)
    kept = {name: np.load(Path(name) / "evaluations" / "test-mine.npy")[:, 0] for name in (short, long)}
    # 60 test rows: origins 24 … 54 and 36 … 54.
    assert [len(values) for values in kept.values()] == [31, 19]
    assert compared.paired.n == 19
    assert compared.paired.values == pytest.approx((kept[short][12:].mean(), kept[long].mean()))


def test_windows_of_an_evaluation_without_their_place_are_paired_as_they_lie(tmp_path: Path) -> None:
    csv = hourly(tmp_path / "mine.csv")
    runs = [linear(tmp_path, name, csv, *changes) for name, changes in (("a", ()), ("b", ("model.loss=mae",)))]
    path = Path(runs[0]) / "evaluations" / "test-mine.json"
    content = json.loads(path.read_text())
    assert content.pop("first_origin") == 24
    path.write_text(json.dumps(content))  # as it was stored before
    assert compare_runs(*runs).paired.n == 31


def test_runs_are_compared_on_their_own_test_part_whatever_else_they_were_measured_on(tmp_path: Path) -> None:
    csv = hourly(tmp_path / "mine.csv")
    longer = hourly(tmp_path / "longer.csv", rows=900, seed=1)
    runs = [linear(tmp_path, name, csv, *changes) for name, changes in (("a", ()), ("b", ("model.loss=mae",)))]
    for run in runs:
        evaluate_run(RunFolder(Path(run)), Request(data=str(longer)))
    compared = compare_runs(*runs)
    assert (compared.dataset, compared.paired.n) == ("mine", 31)


def test_forecasts_that_are_normalized_unlike_are_not_compared(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    runs = [
        linear(tmp_path, name, hourly(tmp_path / name / "load.csv", scale=scale))
        for name, scale in (("one", 1.0), ("other", 5.0))
    ]
    for run in runs:
        evaluate_run(RunFolder(Path(run)), Request(data=str(tmp_path / "one" / "load.csv")))
    with pytest.raises(InputError, match="other means and deviations"):
        compare_runs(*runs)


def test_a_run_that_is_tested_on_another_file_is_no_run_of_its_own_test_part(tmp_path: Path, data_folder: Path) -> None:
    for name in ("etth1", "etth2"):
        (data_folder / name).mkdir(parents=True)
        hourly(data_folder / name / f"ETTh{name[-1]}.csv", seed=int(name[-1]))
    windows = ["data.protocol=ratio", "data.lookback=24", "data.horizon=6", "data.features=S"]
    for name, changes in (("own", []), ("other", ["data.test_on=etth2"])):
        train(load_experiment("etth/mean", ["data.name=etth1", *windows, *changes]), tmp_path / name)
    runs = [str(tmp_path / name) for name in ("own", "other")]
    for compare in (lambda: compare_runs(*runs), lambda: field_of_runs(runs, "both")):
        with pytest.raises(InputError, match="different test files, tested on etth1 and tested on etth2"):
            compare()
    experiment, result = RunFolder(tmp_path / "other").experiment, RunFolder(tmp_path / "other").result
    card = model_card(experiment, result, "cc-by-4.0")
    (measured,) = [one["dataset"] for one in card["model-index"][0]["results"] if one["dataset"]["split"] == "test"]
    assert measured["name"] == "etth2"


def test_what_is_not_kept_for_each_window_is_refused_of_an_unfinished_run_too(tmp_path: Path) -> None:
    csv = hourly(tmp_path / "mine.csv")
    runs = [linear(tmp_path, name, csv) for name in ("a", "b")]
    for run in runs:
        (Path(run) / "result.json").unlink()
    for metric in ("coverage_90", "mae_original", "mae_without_stuck"):
        with pytest.raises(InputError, match=f"--metric {metric}: not kept for each item: give one of mae, mse"):
            compare_runs(*runs, metric=metric)


def test_many_runs_are_ranked_by_the_metric_that_is_asked_for(tmp_path: Path) -> None:
    csv = hourly(tmp_path / "mine.csv")
    runs = [linear(tmp_path, name, csv, *changes) for name, changes in (("a", ()), ("b", ("model.loss=mae",)))]
    field = field_of_runs(runs, "both", metric="mse")
    expected = [RunFolder(Path(run)).result["metrics"]["test"]["mse"]["value"] for run in runs]
    assert (field.metric, [entry.value for entry in field.entries]) == ("mse", expected)
    assert field_of_runs(runs, "both", split="validation").split == "validation"
    refused = [("coverage_90", None, "give one of"), ("crps", None, "share no part"), (None, "x", "share no x part")]
    for metric, split, said in refused:
        with pytest.raises(InputError, match=said):
            field_of_runs(runs, "both", metric=metric, split=split)
    evaluated = RunFolder(Path(runs[0])).result
    evaluated["metrics"]["test"]["mae"]["limited"] = "5 of 31"
    (Path(runs[0]) / "result.json").write_text(json.dumps(evaluated))
    with pytest.raises(InputError, match="unlike numbers of items: 5 of 31, all"):
        field_of_runs(runs, "both")


def test_images_that_other_holdouts_left_are_not_paired(tmp_path: Path) -> None:
    runs = []
    for held in (0, 100):
        experiment = load_experiment("independent/digits", ["evaluate.limit=200", f"data.holdout={held}"])
        train(experiment, tmp_path / str(held))
        runs.append(str(tmp_path / str(held)))
    with pytest.raises(InputError, match="measured on other images of the same train part"):
        compare_runs(*runs, split="train")
    assert compare_runs(*runs, split="test").paired.n == 200
