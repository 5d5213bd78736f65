"""Data-parallel training by real processes on gloo: the numbers of one process, and a clear end when one is lost."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flowbench.config.experiments import load_experiment
from flowbench.runs.folder import RunFolder
from flowbench.training.loop import train
from tests.faults.commands import FLOWBENCH, finish, kill, start, start_ranks, torchrun, wait_until

REAL_NVP = [
    *("real_nvp/digits", "model.features=4", "model.scales=1", "model.batch_norm=true", "model.dropout=0"),
    *("data.batch_size=120", "data.holdout=60", "optim.clip_norm=15", "evaluate.draws=1"),
    *("train.steps=4", "train.log_every=1", "train.validate_every=2", "train.checkpoint_every=1"),
]
GLOW = [
    *(
        "glow/digits",
        "model.levels=1",
        "model.steps=2",
        "model.hidden=8",
        "model.network=convolutions",
        "model.dropout=0",
    ),
    *("data.batch_size=120", "evaluate.draws=1", "train.steps=3", "train.log_every=1", "train.checkpoint_every=1"),
]
FORECAST = ["data.protocol=ratio", "data.lookback=24", "data.horizon=4", "data.batch_size=32", "train.log_every=1"]


def assert_same_numbers(one: RunFolder, several: RunFolder) -> None:
    for row, other in zip(one.metrics(), several.metrics(), strict=True):
        keys = {key for key in row if key.startswith(("train/", "validation/"))}
        assert keys == {key for key in other if key.startswith(("train/", "validation/"))}
        for key in keys:
            assert other[key] == pytest.approx(row[key], rel=1e-5), (row["step"], key)
    for split, metrics in one.result["metrics"].items():
        for name, metric in metrics.items():
            other = several.result["metrics"][split][name]
            if metric["value"] is None:  # columns without one unit have no mean
                assert other["value"] is None
                assert other["per_column"] == pytest.approx(metric["per_column"], rel=1e-5)
            else:
                assert other["value"] == pytest.approx(metric["value"], rel=1e-5)
            assert other["n"] == metric["n"]
    for file in one.evaluations.glob("*.npy"):
        assert np.load(several.evaluations / file.name) == pytest.approx(np.load(file), rel=1e-4)


def compare(tmp_path: Path, arguments: list[str], ranks: int = 2) -> RunFolder:
    one, several = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "several")
    train(load_experiment(arguments[0], arguments[1:]), one.path)
    command = [*FLOWBENCH, "train", *arguments, "--run-dir", str(several.path)]
    told = [finish(process)[0].count("finished") for process in start_ranks(ranks, command)]
    assert told == [1] + [0] * (ranks - 1)
    assert_same_numbers(one, several)
    return several


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["false", "true"])
def test_two_processes_train_as_one_does(tmp_path: Path, recompute: str) -> None:
    run = compare(tmp_path, [*REAL_NVP, f"train.recompute={recompute}"])
    assert run.environment["processes"] == 2
    assert run.result["metrics"]["test"]["bits_per_dim"]["n"] == 360
    assert (run.figures / "samples.png").is_file()
    # The batches' gradients were clipped, so that the global norm was put to the test.
    assert all(row["train/grad_norm"] > 15 for row in run.metrics() if "train/grad_norm" in row)


@pytest.mark.slow
def test_a_vae_trains_on_the_same_draws(tmp_path: Path) -> None:
    # Without free bits: each process takes those of its own images, as the authors' devices do.
    tiny = ["model.free_bits=0", "model.latents=4", "model.features=8", "optim.lr=0.005"]
    compare(tmp_path, ["iafvae/digits", *tiny, *GLOW[6:]])


@pytest.mark.slow
def test_tarflow_learns_the_variances_of_the_global_batch(tmp_path: Path) -> None:
    tiny = ["model.width=8", "model.head=4", "model.blocks=2", "model.layers=1", "model.dropout=0"]
    compare(tmp_path, ["tarflow/digits", *tiny, "model.coupling=additive", "evaluate.weights=raw", *GLOW[6:]])


@pytest.mark.slow
def test_an_autoregressive_model_trains_on_the_same_images(tmp_path: Path) -> None:
    tiny = ["model.blocks=1", "model.filters=4", "model.components=2", "model.dropout=0"]
    compare(tmp_path, ["pixelcnn/digits", *tiny, *GLOW[6:]])


@pytest.fixture
def series(tmp_path: Path) -> str:
    rows = 600
    values = np.sin(np.arange(rows) / 4) + np.random.default_rng(0).normal(0, 0.1, rows)
    frame = pd.DataFrame({"date": pd.date_range("2020-01-01", periods=rows, freq="h"), "x": values, "OT": values**2})
    frame.to_csv(tmp_path / "series.csv", index=False)
    return f"data.csv={tmp_path / 'series.csv'}"


@pytest.mark.slow
def test_activation_norm_starts_from_the_global_batch(tmp_path: Path) -> None:
    compare(tmp_path, GLOW, ranks=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        ["etth/lstm2lstm", "model.hidden=8", "model.dropout=0", "model.teacher_forcing=0.5"],
        ["etth/lstm2lstm-faithful", "model.hidden=8"],
        ["etth/patchtst", "model.dropout=0"],
    ],
    ids=lambda model: model[0],
)
def test_forecasters_train_on_the_same_windows(tmp_path: Path, series: str, model: list[str]) -> None:
    compare(tmp_path, [*model, series, *FORECAST, "train.steps=4"])


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_run_goes_on_with_another_number(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    arguments = [*REAL_NVP, "train.steps=200", "data.holdout=0"]
    command = [*FLOWBENCH, "train", *arguments, "--run-dir", str(run.path)]
    ranks = start_ranks(2, command)
    assert wait_until((run.path / "checkpoint.previous.pt").exists, *ranks)
    kill(ranks[1])
    _, errors = finish(ranks[0], code=3)
    assert "another process of this training was lost" in errors
    assert "Traceback" not in errors
    finish(ranks[1], code=-signal.SIGKILL)
    assert not run.finished
    assert "was lost" in (run.path / "failure.json").read_text()
    saved = run.load_checkpoint()
    assert saved is not None
    # With one process now, and few steps more: what was trained stays.
    content = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(content.replace("steps: 200", f"steps: {saved[0]['step'] + 2}"))
    _, errors = finish(
        start([*FLOWBENCH, "train", str(run.path / "config.yaml"), "--run-dir", str(run.path), "--resume"])
    )
    assert "begun with 2 processes, going on with 1" in errors
    assert [row["step"] for row in run.metrics() if "lr" in row] == list(range(1, saved[0]["step"] + 3))


PATIENT = """
import datetime, sys
from flowbench.system import processes
processes.PATIENCE = datetime.timedelta(seconds=8)
from flowbench.__main__ import main
sys.argv[0] = "flowbench"
main()
"""


@pytest.mark.slow
def test_a_process_that_hangs_is_given_up_in_bounded_time(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    arguments = ["train", *REAL_NVP, "train.steps=200", "--run-dir", str(run.path)]
    ranks = start_ranks(2, [sys.executable, "-c", PATIENT, *arguments])
    try:
        assert wait_until((run.path / "checkpoint.pt").exists, *ranks)
        kill(ranks[1], signal.SIGSTOP)
        _, errors = finish(ranks[0], code=3)
        assert "lost or did not answer" in errors
        assert (run.path / "failure.json").exists()
    finally:
        kill(ranks[1])
        ranks[1].communicate()


@pytest.mark.slow
def test_sigterm_to_torchrun_stops_all_at_one_step_and_the_rest_is_the_same(tmp_path: Path) -> None:
    arguments = [*REAL_NVP, "train.steps=20", "train.checkpoint_every=100", "train.validate_every=10"]
    straight, stopped = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "stopped")
    train = [*FLOWBENCH, "train", *arguments, "--run-dir"]
    for rank in start_ranks(2, [*train, str(straight.path)]):
        finish(rank)
    process = start(torchrun(2, "train", *arguments, "--run-dir", str(stopped.path)))
    assert wait_until(lambda: any("lr" in row for row in stopped.metrics()), process)
    kill(process, signal.SIGTERM)
    _, errors = process.communicate()
    assert "stopped at step" in errors
    assert not (stopped.path / "failure.json").exists()
    for rank in start_ranks(2, [*train, str(stopped.path), "--resume"]):
        finish(rank)
    assert comparable(stopped.result) == comparable(straight.result)


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in ("train_seconds", "throughput", "mlflow_run_id")}


@pytest.mark.slow
def test_a_mistake_is_told_once_and_other_commands_are_for_one_process(tmp_path: Path) -> None:
    ranks = start_ranks(
        2, [*FLOWBENCH, "train", "real_nvp/digits", "data.batch_size=121", "--run-dir", str(tmp_path / "a")]
    )
    told = [finish(process, code=2)[1] for process in ranks]
    assert "121 does not divide among 2 processes" in told[0]
    (tmp_path / "a").mkdir(exist_ok=True)
    (tmp_path / "a" / "config.yaml").write_text(json.dumps({"kind": "nothing"}))
    ranks = start_ranks(2, [*FLOWBENCH, "train", "real_nvp/digits", "--run-dir", str(tmp_path / "a")])
    told = [finish(process, code=2)[1] for process in ranks]
    assert "kind" in told[0]
    assert "kind" not in told[1]
    ranks = start_ranks(2, [*FLOWBENCH, "reproduce"])
    assert all("for one process" in finish(process, code=2)[1] for process in ranks)
