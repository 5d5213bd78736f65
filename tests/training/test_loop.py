"""The loop on the real command's own path: tiny digits models, real folders, real signals."""

import json
import signal
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import flowbench
from flowbench.config.experiments import load_experiment
from flowbench.config.schema import Experiment
from flowbench.errors import InputError, WorkFailedError
from flowbench.runs.folder import RunFolder
from flowbench.tasks import density as density_task
from flowbench.tasks.objectives import NegativeLogLikelihood
from flowbench.training.loop import _budget, train
from tests.faults.commands import FLOWBENCH, Process, finish, start, wait_until

TINY = ["model.features=4", "train.steps=12", "train.log_every=2", "train.checkpoint_every=4", "evaluate.draws=1"]
VARYING = ("train_seconds", "throughput", "mlflow_run_id")


def tiny(*overrides: str) -> Experiment[Any, Any]:
    return load_experiment("real_nvp/digits", [*TINY, "data.holdout=100", "train.validate_every=6", *overrides])


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in VARYING}


def weights(run: RunFolder) -> dict[str, Tensor]:
    loaded = run.load_checkpoint()
    assert loaded is not None
    state = loaded[0]
    moments = {f"{n}.{k}": v for n, s in state["optimizer"]["state"].items() for k, v in s.items()}
    return {**state["model"], **{f"ema.{k}": v for k, v in state["ema"].items()}, **moments, **state["population"]}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("undisturbed") / "run")
    train(tiny(), run.path)
    return run


def test_a_run_leaves_everything_behind(undisturbed: RunFolder) -> None:
    result = undisturbed.result
    assert result["schema"] == 1
    assert result["steps"] == 12
    assert result["budget"] == "custom"
    assert result["data_status"] == "verified"
    figure = result["metrics"]["test"]["bits_per_dim"]
    assert figure["n"] == 360
    assert figure["levels"] == 17
    assert figure["weights"] == "ema"
    assert figure["stderr"] > 0
    assert result["metrics"]["train"]["bits_per_dim"]["n"] == 1337
    assert (undisturbed.figures / "samples.png").stat().st_size > 1000
    environment = undisturbed.environment
    assert environment["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert environment["data"]["fingerprint"] == result["data_fingerprint"]
    steps = [row["step"] for row in undisturbed.metrics() if "train/bits_per_dim" in row]
    assert steps == [2, 4, 6, 8, 10, 12]
    validations = [row["step"] for row in undisturbed.metrics() if "validation/bits_per_dim" in row]
    assert validations == [6, 12]


def test_two_runs_of_one_config_agree_in_everything(undisturbed: RunFolder, tmp_path: Path) -> None:
    again = train(tiny(), tmp_path / "again")
    assert comparable(again) == comparable(undisturbed.result)
    assert_equal(weights(RunFolder(tmp_path / "again")), weights(undisturbed))


def test_a_finished_run_is_given_back_at_once(undisturbed: RunFolder) -> None:
    before = (undisturbed.path / "checkpoint.pt").stat().st_mtime_ns
    assert train(tiny(), undisturbed.path) == undisturbed.result
    assert (undisturbed.path / "checkpoint.pt").stat().st_mtime_ns == before


def test_another_config_or_an_unfinished_run_is_refused(undisturbed: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another config"):
        train(tiny("seed=1"), undisturbed.path)
    run = RunFolder(tmp_path / "begun")
    with run.lock():
        run.begin(tiny(), {})
    with pytest.raises(InputError, match="--resume"):
        train(tiny(), run.path)


class StopHereError(Exception):
    pass


@pytest.mark.parametrize("step", [1, 5, 8, 11])
def test_resumed_equals_uninterrupted(
    undisturbed: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patched:
        dying_at(patched, step)
        with pytest.raises(StopHereError):
            train(tiny(), tmp_path / "run")
    result = train(tiny(), tmp_path / "run", resume=True)
    assert comparable(result) == comparable(undisturbed.result)
    run = RunFolder(tmp_path / "run")
    assert_equal(weights(run), weights(undisturbed))
    rows = [{k: v for k, v in row.items() if k not in ("time", "images_per_second")} for row in run.metrics()]
    known = [{k: v for k, v in row.items() if k not in ("time", "images_per_second")} for row in undisturbed.metrics()]
    assert rows == known


def launch(run: Path, *more: str) -> Process:
    overrides = [*TINY, "data.holdout=100", "train.steps=60", "train.validate_every=60"]
    return start([*FLOWBENCH, "train", "real_nvp/digits", *overrides, "--run-dir", str(run), *more])


def saved_at(run: Path) -> int:
    try:
        return (run / "checkpoint.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@pytest.mark.slow
def test_killed_and_terminated_runs_resume_bit_for_bit(tmp_path: Path) -> None:
    finish(launch(tmp_path / "straight"))
    run = tmp_path / "disturbed"
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        before = saved_at(run)
        process = launch(run, *(["--resume"] if run.exists() else []))
        assert wait_until(lambda: saved_at(run) > before, process)  # noqa: B023
        process.send_signal(number)
        _, errors = process.communicate()
        if process.returncode == 0:
            pytest.skip("the run was faster than the signal")
        assert process.returncode == code, errors
    assert "stopped" in errors
    finish(launch(run, "--resume"))
    assert_equal(weights(RunFolder(run)), weights(RunFolder(tmp_path / "straight")))
    assert comparable(RunFolder(run).result) == comparable(RunFolder(tmp_path / "straight").result)


def test_nothing_of_a_step_is_left_when_the_next_one_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Token:
        pass

    forward = NegativeLogLikelihood.forward
    left: list[weakref.ref[Any]] = []

    def watched(self: NegativeLogLikelihood, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert not any(one() is not None for one in left)
        loss, values = forward(self, *batch)
        for tensor in (loss, *values.values()):
            token = Token()
            assert tensor.grad_fn is not None
            tensor.grad_fn.metadata["token"] = token
            left.extend((weakref.ref(tensor), weakref.ref(token)))
        assert all(one() is not None for one in left[-2:])
        return loss, values

    monkeypatch.setattr(NegativeLogLikelihood, "forward", watched)
    monkeypatch.setattr(density_task.DensityTask, "evaluate", lambda *_: ({}, []))
    monkeypatch.setattr(density_task.DensityTask, "population", lambda *_: {})
    train(tiny("train.steps=3", "train.validate_every=2"), tmp_path / "run")
    assert len(left) == 3 * 4


def test_a_step_with_nan_changes_nothing_and_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = density_task.DensityTask.batch

    def poisoned(self: density_task.DensityTask, number: int) -> tuple[Tensor, Tensor]:
        images, noise = batch(self, number)
        return images, torch.full_like(noise, float("nan")) if number == 3 else noise

    monkeypatch.setattr(density_task.DensityTask, "batch", poisoned)
    result = train(tiny(), tmp_path / "run")
    assert result["skipped_steps"] == 1
    assert all(torch.isfinite(value).all() for value in weights(RunFolder(tmp_path / "run")).values())
    assert [row["skipped"] for row in RunFolder(tmp_path / "run").metrics() if "skipped" in row] == [0, 1, 1, 1, 1, 1]


def test_divergence_ends_with_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = density_task.DensityTask.batch

    def poisoned(self: density_task.DensityTask, number: int) -> tuple[Tensor, Tensor]:
        images, noise = batch(self, number)
        return images, torch.full_like(noise, float("nan")) if number >= 5 else noise

    monkeypatch.setattr(density_task.DensityTask, "batch", poisoned)
    with pytest.raises(WorkFailedError, match=r"diverged.*optim\.lr"):
        train(tiny("train.max_skipped=3"), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert not run.finished
    assert all(torch.isfinite(value).all() for value in weights(run).values())
    assert "diverged" in json.loads((run.path / "failure.json").read_text())["reason"]
    monkeypatch.setattr(density_task.DensityTask, "batch", batch)
    train(tiny("train.max_skipped=3"), run.path, resume=True)
    assert not (run.path / "failure.json").exists()


def test_a_refused_or_pruned_training_is_no_failed_run(tmp_path: Path) -> None:
    class PrunedError(Exception):
        pass

    def prune(*_: object) -> None:
        raise PrunedError

    with pytest.raises(PrunedError):
        train(tiny("train.validate_every=2"), tmp_path / "run", watch=prune)
    with pytest.raises(InputError, match="unfinished run"):
        train(tiny("train.validate_every=2"), tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").exists()
    assert not (tmp_path / "run" / "failure.json").exists()


def test_best_weights_are_kept_and_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([3.0, 2.0, 2.5, 2.6, 1.0])
    monkeypatch.setattr(density_task.DensityTask, "validate", lambda *_: {"bits_per_dim": next(figures)})
    changes = ["train.validate_every=2", "train.patience=2", "train.keep=best"]
    result = train(tiny(*changes), tmp_path / "run")
    assert result["steps"] == 8
    loaded = RunFolder(tmp_path / "run").load_checkpoint()
    assert loaded is not None
    assert loaded[0]["best"]["step"] == 4
    assert_equal(loaded[0]["model"], loaded[0]["best"]["model"])


def test_a_closed_form_needs_no_steps(tmp_path: Path) -> None:
    result = train(load_experiment("independent/digits"), tmp_path / "run")
    assert result["steps"] == 0
    assert result["metrics"]["test"]["bits_per_dim"]["value"] == pytest.approx(2.43, abs=0.03)


@pytest.mark.parametrize(
    ("name", "resample", "budget"),
    [
        ("lsun-tower", "pyramid", "paper"),
        ("lsun-tower", "bilinear", "custom"),
        ("celeba", "tf1-bilinear", "paper"),
        ("celeba", "antialias", "custom"),
        ("cifar10", None, "paper"),
    ],
)
def test_the_papers_preset_on_otherwise_resized_images_is_custom(name: str, resample: str | None, budget: str) -> None:
    data = {} if resample is None else {"resample": resample}
    session = SimpleNamespace(
        experiment=load_experiment(f"real_nvp/{name}"), budget=None, task=SimpleNamespace(data=data)
    )
    assert _budget(session) == budget  # type: ignore[arg-type]


def test_a_time_budget_ends_the_steps_and_is_custom(tmp_path: Path) -> None:
    result = train(tiny("train.steps=100000"), tmp_path / "run", time_budget=1.0)
    assert 0 < result["steps"] < 100_000
    assert (result["budget"], result["time_budget"]) == ("custom", 1.0)


def test_what_the_clock_ends_is_logged_validated_and_kept_as_what_the_steps_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowbench.training.loop.time.perf_counter", iter(range(10**6)).__next__)
    run = RunFolder(tmp_path / "run")
    keep = ["train.steps=100000", "train.log_every=7", "train.validate_every=1000", "train.keep=best"]
    result = train(tiny(*keep), run.path, time_budget=50.0)
    assert result["steps"] % 7
    rows = run.metrics()
    assert max(row["step"] for row in rows if "lr" in row) == result["steps"]
    assert [row["step"] for row in rows if "validation/bits_per_dim" in row] == [result["steps"]]


def test_a_training_that_the_clock_ends_may_have_diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbench.training.loop.time.perf_counter", iter(range(10**6)).__next__)
    monkeypatch.setattr(NegativeLogLikelihood, "forward", lambda *_: (torch.tensor(torch.nan, requires_grad=True), {}))
    with pytest.raises(WorkFailedError, match="diverged: loss or gradient not finite in the last"):
        train(tiny("train.steps=100000", "train.log_every=1000"), tmp_path / "run", time_budget=100.0)
    assert not RunFolder(tmp_path / "run").finished


def test_a_training_that_validates_often_is_not_called_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("flowbench.training.loop.time.perf_counter", clock.__next__)
    validate = density_task.DensityTask.validate

    def slow(self: Any, *arguments: Any) -> Any:
        for _ in range(500):
            next(clock)
        return validate(self, *arguments)

    monkeypatch.setattr(density_task.DensityTask, "validate", slow)
    result = train(tiny("train.validate_every=2"), tmp_path / "run")
    # A step begins and ends one tick apart.
    assert result["throughput"]["train_images_per_second"] == 64.0
    assert result["train_seconds"] > 6 * 500


def test_a_validation_that_is_no_number_is_not_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([float("nan"), 3.0, float("inf"), 2.5, 2.7, 2.6])
    monkeypatch.setattr(density_task.DensityTask, "validate", lambda *_: {"bits_per_dim": next(figures)})
    train(tiny("train.validate_every=2", "train.keep=best"), tmp_path / "run")
    loaded = RunFolder(tmp_path / "run").load_checkpoint()
    assert loaded is not None
    assert (loaded[0]["best"]["value"], loaded[0]["best"]["step"], loaded[0]["best"]["stale"]) == (2.5, 8, 2)


def dying_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    batch = density_task.DensityTask.batch

    def dies(self: density_task.DensityTask, number: int) -> tuple[Tensor, Tensor]:
        if number == step:
            raise StopHereError
        return batch(self, number)

    monkeypatch.setattr(density_task.DensityTask, "batch", dies)


def without_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(session: Any, objective: Any) -> tuple[dict[str, Tensor], Tensor]:
        session.task.batch(session.step)
        return {"bits_per_dim": torch.zeros(())}, torch.ones(())

    monkeypatch.setattr("flowbench.training.loop._step", step)


def test_a_run_begun_under_a_time_budget_stays_custom_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The shipped preset, unchanged: without its budget on record it would count as `quick`.
    shipped = load_experiment("real_nvp/digits")
    without_steps(monkeypatch)
    with monkeypatch.context() as patched:
        dying_at(patched, 200)
        with pytest.raises(StopHereError):
            train(shipped, tmp_path / "run", time_budget=1e6)
    loaded = RunFolder(tmp_path / "run").load_checkpoint()
    assert loaded is not None
    assert loaded[0]["step"] == 200
    torch.save(loaded[0] | {"step": 799}, tmp_path / "run" / "checkpoint.pt")  # nearly done, to be quick
    result = train(shipped, tmp_path / "run", resume=True)
    assert result["steps"] == 800
    assert result["budget"] == "custom"


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        dying_at(patched, 5)
        with pytest.raises(StopHereError):
            train(tiny(), tmp_path / "run")
    path = tmp_path / "run" / "environment.json"
    environment = json.loads(path.read_text())
    environment["data"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(environment))
    with pytest.raises(InputError, match="begun on other data"):
        train(tiny(), tmp_path / "run", resume=True)


def test_warnings_leave_stdout_to_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        dying_at(patched, 9)
        with pytest.raises(StopHereError):
            train(tiny(), tmp_path / "run")
    newest = tmp_path / "run" / "checkpoint.pt"
    newest.unlink()
    newest.write_bytes(b"damaged")
    path = tmp_path / "run" / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": 99, "instructions": "ABACUS"}))
    train(tiny(), tmp_path / "run", resume=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "using checkpoint.previous.pt" in captured.err
    assert "begun with 99 threads" in captured.err
    assert "begun on a processor with ABACUS, going on with " in captured.err


@pytest.mark.parametrize("units", [None, "AVX512-BF16"])
def test_bf16_on_a_processor_without_units_for_it_is_said_in_one_line_before_the_first_step(
    units: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flowbench.training.loop.bfloat16_units", lambda: units)
    for precision in (32, "bf16"):
        with monkeypatch.context() as patched:
            dying_at(patched, 1)
            with pytest.raises(StopHereError):
                train(tiny(f"train.precision={precision}"), tmp_path / str(precision))
        said = [line for line in capsys.readouterr().err.splitlines() if "bf16" in line]
        assert len(said) == (precision == "bf16" and units is None)
    assert all("train.precision=32" in line for line in said)


@pytest.mark.slow
def test_a_bf16_training_goes_on_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tiny("train.precision=bf16", "model.dropout=0.0", "train.steps=8", "train.validate_every=8")
    for name in ("whole", "resumed"):
        with monkeypatch.context() as patched:
            if name == "resumed":
                dying_at(patched, 7)
                with pytest.raises(StopHereError):
                    train(experiment, tmp_path / name)
        result = train(experiment, tmp_path / name, resume=name == "resumed")
        assert result["precision"] == "bf16"
    assert_equal(*(weights(RunFolder(tmp_path / name)) for name in ("whole", "resumed")))


def test_two_csv_files_are_two_trainings(tmp_path: Path) -> None:
    hours = pd.date_range("2020-01-01", periods=400, freq="h")
    for name in ("one", "other"):
        pd.DataFrame({"date": hours, "OT": np.arange(400.0)}).to_csv(tmp_path / f"{name}.csv", index=False)
    changes = ["data.protocol=ratio", "data.lookback=24", "data.horizon=4"]
    train(load_experiment("etth/repeat_last", [f"data.csv={tmp_path / 'one.csv'}", *changes]), tmp_path / "run")
    with pytest.raises(InputError, match="another config"):
        train(load_experiment("etth/repeat_last", [f"data.csv={tmp_path / 'other.csv'}", *changes]), tmp_path / "run")


def test_the_loaded_model_gives_the_reported_figure(undisturbed: RunFolder) -> None:
    from flowbench.data import open_split
    from flowbench.densities.model import DensityModel
    from flowbench.evaluation.likelihood import evaluate
    from flowbench.evaluation.reported import Setting

    model = flowbench.load_run(undisturbed.path)
    assert isinstance(model.model, DensityModel)
    assert not model.training
    setting = Setting(draws=1, batch_norm="running", other_mode=False)
    measured = evaluate(model.model, open_split("digits", "test"), setting)
    value = undisturbed.result["metrics"]["test"]["bits_per_dim"]["value"]
    assert measured.metrics["bits_per_dim"]["value"] == pytest.approx(value, abs=1e-6)


@pytest.mark.slow
def test_compiled_training_follows_the_eager_one(undisturbed: RunFolder, tmp_path: Path) -> None:
    train(tiny("train.compile=true"), tmp_path / "run")
    eager = [row["train/loss"] for row in undisturbed.metrics() if "train/loss" in row]
    compiled = [row["train/loss"] for row in RunFolder(tmp_path / "run").metrics() if "train/loss" in row]
    # Dropout draws differently when compiled: the two start alike and stay close, no more.
    assert compiled == pytest.approx(eager, rel=0.02)
