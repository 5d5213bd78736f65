import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flowbench.comparison.compared_runs import compare_runs
from flowbench.config.experiments import config_sha256, load_experiment
from flowbench.config.registry import image_sets
from flowbench.config.schema import COMPILED_NUMERICS, Experiment
from flowbench.data import open_split
from flowbench.data.preparing import prepare
from flowbench.report.formats import difference, labels
from flowbench.report.verdict import details, verdict
from flowbench.reproduction.reproduce import reproduce
from flowbench.runs.folder import RunFolder
from flowbench.tables.results import done_row, rechecked_row, stale_reasons
from flowbench.tables.table import load_table
from flowbench.training.loop import train
from tests.data.make import photograph, write_folder
from tests.faked_runs import FakeTrainer

OTHER = "other resampling"


class OnImages(FakeTrainer):
    """Its figures are of LSUN's or CelebA's validation images, made in this way; None: stored before it was a label."""

    def __init__(self, resample: str | None, value: float = 2.81, numerics: int | None = None) -> None:
        super().__init__(budget="paper")
        self._resample, self._value, self._numerics = resample, value, numerics
        self.fingerprint = "0" * 64

    def result(self, experiment: Experiment[Any, Any], value: float) -> dict[str, Any]:
        known = image_sets[experiment.data.name]
        label = {} if self._resample is None else {"resample": self._resample}
        figure = {"value": self._value, "stderr": 0.01, "n": 300, "levels": 256, **label}
        return {
            **super().result(experiment, value),
            "data_fingerprint": self.fingerprint,
            "metrics": {"validation": {"bits_per_dim": figure}},
            "config_sha256": config_sha256(experiment),
            "numerics": {"model": experiment.model.numerics, "data": self._numerics or known.numerics},
        }


def row_of(out: Path, *trainers: FakeTrainer, title: str = "LSUN tower", table: str = "real_nvp") -> dict[str, Any]:
    """Return the first entry of a table's row, with one seed for each trainer."""
    row = load_table(table).select([title])[0]
    entry = row.experiments[0]
    experiments = [load_experiment(entry.name, [f"seed={seed}"]) for seed in range(len(trainers))]
    paths = [out / "runs" / str(one.seed) for one in experiments]
    for trainer, experiment, path in zip(trainers, experiments, paths, strict=True):
        trainer(experiment, path)
    return done_row(row, entry, experiments, paths, out)


@pytest.mark.parametrize(
    ("title", "resample", "shown"),
    [
        ("LSUN tower", "bilinear", "bilinear"),
        ("LSUN tower", None, "bilinear"),
        ("CelebA", "antialias", "antialias"),
        ("CelebA", None, "unknown"),
    ],
)
def test_a_figure_of_otherwise_resized_images_is_badged_and_never_a_reproduction(
    data_folder: Path, tmp_path: Path, title: str, resample: str | None, shown: str
) -> None:
    published = 2.81 if title == "LSUN tower" else 3.02
    row = row_of(tmp_path, OnImages(resample, published), title=title)
    assert row["labels"]["resample"] == shown
    assert OTHER in row["badges"]
    assert row["budget"] == "custom"
    assert verdict(row) == "no reproduction: other images"
    assert details(row) == f"those of Real NVP's {published} were resized in another way than by {shown}"
    assert difference(row) is None


@pytest.mark.parametrize(("title", "resample"), [("LSUN tower", "pyramid"), ("CelebA", "tf1-bilinear")])
def test_a_figure_of_the_released_images_is_compared(
    data_folder: Path, tmp_path: Path, title: str, resample: str
) -> None:
    row = row_of(tmp_path, OnImages(resample, 2.81 if title == "LSUN tower" else 3.02), title=title)
    assert row["labels"] == {"levels": 256, "resample": resample}
    assert OTHER not in row["badges"]
    assert row["budget"] == "paper"
    assert verdict(row).startswith("within noise of Real NVP's")


def test_one_seed_on_other_images_is_enough(data_folder: Path, tmp_path: Path) -> None:
    row = row_of(tmp_path, OnImages("pyramid"), OnImages("bilinear"))
    assert row["labels"]["resample"] == "bilinear and pyramid"
    assert OTHER in row["badges"]


def test_an_unlabelled_figure_is_of_the_images_that_are_here_if_they_are_the_same(
    data_folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for part in ("train", "val"):
        write_folder(source / f"tower_{part}", [photograph(120, 130)])
    prepare("lsun-tower", source)
    trainer = OnImages(None)
    trainer.fingerprint = open_split("lsun-tower", "train").fingerprint
    row = row_of(tmp_path / "out", trainer)
    assert row["labels"]["resample"] == "pyramid"
    assert OTHER not in row["badges"]


@pytest.mark.parametrize("kept", [True, False])
def test_stored_rows_get_label_and_badge_too(data_folder: Path, tmp_path: Path, kept: bool) -> None:
    row = row_of(tmp_path, OnImages(None))
    before = {**row, "labels": {"levels": 256}, "badges": ["counts match"], "budget": "paper", "reason": None}
    if not kept:
        (tmp_path / row["runs"][0] / "result.json").unlink()
    again = rechecked_row(before, tmp_path)
    assert again["labels"] == {"levels": 256, "resample": "bilinear"}
    assert again["badges"] == ["counts match", OTHER]
    assert again["budget"] == "custom"
    assert rechecked_row(again, tmp_path) == again


def test_rows_of_sets_without_a_choice_stay_as_they_were(tmp_path: Path) -> None:
    row = row_of(tmp_path, FakeTrainer(), title="digits", table="quick")
    assert "resample" not in row["labels"]
    assert rechecked_row(row, tmp_path) == row


def test_an_lsun_figure_of_before_is_stale_as_well(data_folder: Path, tmp_path: Path) -> None:
    row = row_of(tmp_path, OnImages(None, numerics=1))
    assert row["badges"][-2:] == ["stale", OTHER]
    assert "lsun-tower is prepared differently today" in row["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("resample", ["pyramid", "bilinear"])
def test_a_training_on_lsun_is_labelled_from_the_images_to_the_page(
    data_folder: Path, tmp_path: Path, resample: str
) -> None:
    source = tmp_path / "source"
    for part, count in (("train", 8), ("val", 3)):
        write_folder(source / f"tower_{part}", [photograph(120, 130, seed) for seed in range(count)])
    prepare("lsun-tower", source, resample=resample)
    row = {"row": "LSUN tower", "dataset": "lsun-tower", "metric": "bits_per_dim", "split": "validation"}
    overrides = ["data.name=lsun-tower", "data.levels=null", "data.batch_size=4"]
    entry = {"name": "independent/digits", "overrides": overrides, "reproduces": "Someone"}
    published = [{"model": "Someone", "value": 9.0, "split": "validation", "source": "a paper"}]
    content = {"table": "mine", "title": "x", "description": "x"}
    content["rows"] = [{**row, "experiments": [entry], "published": published}]
    table = tmp_path / "mine.yaml"
    table.write_text(json.dumps(content))
    (found,) = reproduce(str(table), out=tmp_path / "out", trainer=train)["rows"]
    run = RunFolder(tmp_path / "out" / found["runs"][0])
    assert run.environment["data"]["resample"] == resample
    for metrics in run.result["metrics"].values():
        assert {metric["resample"] for metric in metrics.values()} == {resample}
    for path in run.evaluations.glob("*.json"):
        (metrics,) = json.loads(path.read_text())["metrics"].values()
        assert {metric["resample"] for metric in metrics.values()} == {resample}
    assert (OTHER in found["badges"]) == (resample == "bilinear")
    copy = shutil.copytree(run.path, tmp_path / "copy")
    assert compare_runs(str(run.path), str(copy)).lines[0].endswith(f", resample {resample}")
    for name in ("report.html", "table.csv", "table.md"):
        text = (tmp_path / "out" / name).read_text()
        assert f"resample {resample}" in text
        assert (OTHER in text) == (resample == "bilinear")


@pytest.mark.parametrize(
    ("keys", "measured"),
    [
        (["train.compile=true", "optim.name=adam", "train.ema=0"], "earlier weights"),
        (["train.compile=true", "optim.name=adamw", "train.ema=0"], "earlier weights"),
        (["train.compile=true", "optim.name=adam", "train.ema=0.9", "evaluate.weights=raw"], "earlier weights"),
        (["train.compile=true", "optim.name=adam", "train.ema=0.9"], ""),
        (["train.compile=true", "optim.name=adamax", "train.ema=0"], ""),
        (["train.compile=false", "optim.name=adam", "train.ema=0"], ""),
    ],
)
def test_figures_of_raw_weights_that_a_compiled_training_and_a_fused_optimizer_left_are_stale_until_now(
    keys: list[str], measured: str
) -> None:
    experiment = load_experiment("glow/digits", keys)
    result = FakeTrainer().result(experiment, 2.0)
    assert measured in " ".join(stale_reasons(result, experiment))
    assert bool(stale_reasons(result, experiment)) == bool(measured)
    today = {**result, "numerics": {**result["numerics"], "compiled": COMPILED_NUMERICS}}
    assert stale_reasons(today, experiment) == []


class Scored(FakeTrainer):
    """Its figures are those of a forecast's distribution."""

    def __init__(self, covered: float) -> None:
        super().__init__()
        self._covered = covered

    def result(self, experiment: Experiment[Any, Any], value: float) -> dict[str, Any]:
        figure = {"stderr": None, "n": 2857, "samples": 99}
        scores = {"crps": {"value": 0.25, **figure}, "coverage_90": {"value": self._covered, **figure}}
        return {**super().result(experiment, value), "metrics": {"test": scores}}


def test_what_the_intervals_cover_stands_beside_the_crps(tmp_path: Path) -> None:
    row = row_of(tmp_path, Scored(0.9), Scored(0.92), title="ETTh1 24 CRPS", table="etth-densities")
    assert row["coverage_90"] == pytest.approx(0.91)
    assert "samples 99" in labels(row)
    assert "central 90 % cover 91.0%" in labels(row)


def test_a_rows_figure_is_a_bound_where_that_of_one_seed_is(tmp_path: Path) -> None:
    class Shared(FakeTrainer):
        def result(self, experiment: Experiment[Any, Any], value: float) -> dict[str, Any]:
            found = super().result(experiment, value)
            bound = "density_branch" if experiment.seed == 1 else "exact"
            metric = found["metrics"]["test"]["bits_per_dim"]
            return {**found, "metrics": {"test": {"bits_per_dim": {**metric, "bound": bound}}}}

    for seeds, bound in (([0], "exact"), ([0, 1, 2], "density_branch")):
        results = reproduce("quick", only=["digits"], seeds=seeds, out=tmp_path, trainer=Shared())
        labels = [row["labels"]["bound"] for row in results["rows"] if row["status"] == "done"]
        assert set(labels) == {bound}


@pytest.mark.parametrize(
    ("table", "title", "changes", "other"),
    [
        ("glow", "CIFAR-10", ["data.bits=5"], True),
        ("glow", "CIFAR-10", ["model.hidden=8"], False),
        ("etth", "ETTh1 96", ["data.horizon=24"], True),
        ("etth", "ETTh1 96", ["data.features=S"], True),
        ("etth", "ETTh1 96", ["optim.lr=0.1"], False),
        ("etth", "ETTh1 report 24", ["data.horizon=12"], False),  # beside no published figure
    ],
)
def test_a_figure_of_something_else_than_its_row_is_badged(
    table: str, title: str, changes: list[str], other: bool, tmp_path: Path
) -> None:
    row = load_table(table).select([title])[0]
    entry = row.experiments[0]
    experiment = load_experiment(entry.name, [*entry.overrides, *changes])
    FakeTrainer()(experiment, tmp_path / "run")
    made = done_row(row, entry, [experiment], [tmp_path / "run"], tmp_path)
    assert ("other task" in made["badges"]) == other
