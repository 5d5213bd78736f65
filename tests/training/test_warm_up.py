"""What the compiler takes is no part of the training: neither of its time nor of its steps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from flowbench.config.experiments import load_experiment
from flowbench.runs.folder import RunFolder
from flowbench.tasks.density import DensityTask
from flowbench.training import loop, warm_up
from flowbench.training.loop import train

MODELS = {
    "real_nvp": ["model.scales=1", "model.residual_blocks=1", "model.features=2", "model.dropout=0.2"],
    "glow": ["model.levels=1", "model.steps=1", "model.hidden=4", "model.dropout=0.2", "optim.name=adamax"],
}
KEYS = ["data.batch_size=16", "train.steps=100000", "train.checkpoint_every=3", "train.log_every=1", "train.ema=0.9"]
RATES = ["optim.schedule=cosine", "optim.warmup=0.3"]
BUDGET = 7.0
COMPILING = 126.0


class StopHereError(Exception):
    pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that shows a second more for each batch, and two minutes more when something compiled runs first."""
    clock = SimpleNamespace(now=0.0, dies_at=None)
    batch = DensityTask.batch

    def slow_at_first(function: Any, **_: Any) -> Any:
        compiled = []

        def call(*arguments: Any) -> Any:
            if not compiled:
                compiled.append(True)
                clock.now += COMPILING
            return function(*arguments)

        return call

    def ticking(self: DensityTask, number: int) -> tuple[Tensor, Tensor]:
        if number == clock.dies_at:
            raise StopHereError
        clock.now += 1
        images, noise = batch(self, number)
        return images, torch.full_like(noise, float("nan")) if number == 3 else noise

    def shown() -> float:
        return float(clock.now)

    for module in (loop, warm_up):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=shown, process_time=shown))
    monkeypatch.setattr(torch, "compile", slow_at_first)
    monkeypatch.setattr(DensityTask, "batch", ticking)
    monkeypatch.setattr(DensityTask, "evaluate", lambda *_: ({}, []))
    monkeypatch.setattr(DensityTask, "population", lambda *_: {})
    monkeypatch.setattr(loop, "draw_at_end", lambda _: [])
    return clock


def outcome(run: RunFolder) -> dict[str, Any]:
    """All that the training left, but for what the compiler took."""
    loaded = run.load_checkpoint()
    assert loaded is not None
    state = loaded[0]
    del state["schedule"]["compile_seconds"]
    rows = [{**row, "time": 0} for row in run.metrics() if "compile_seconds" not in row]
    keys = ("steps", "train_seconds", "skipped_steps", "time_budget")
    return {"state": state, "rows": rows, "result": {key: run.result[key] for key in keys}}


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_training_takes_the_steps_and_the_time_of_one_that_is_not(
    name: str, clock: SimpleNamespace, tmp_path: Path
) -> None:
    eager, straight, disturbed = (RunFolder(tmp_path / run) for run in ("eager", "straight", "disturbed"))
    changes = [*MODELS[name], *KEYS, *RATES]
    compiled = load_experiment(f"{name}/digits", [*changes, "train.compile=true"])
    train(load_experiment(f"{name}/digits", changes), eager.path, time_budget=BUDGET)
    train(compiled, straight.path, time_budget=BUDGET)
    expected = outcome(eager)
    assert expected["result"] == {"steps": 7, "train_seconds": BUDGET, "skipped_steps": 1, "time_budget": BUDGET}
    assert_equal(outcome(straight), expected)
    assert "compile_seconds" not in eager.result["throughput"]
    assert straight.result["throughput"]["compile_seconds"] >= COMPILING
    assert straight.result["throughput"]["train_images_per_second"] == 16

    # Going on, it compiles again: here before the step whose loss is no number.
    clock.dies_at = 5
    with pytest.raises(StopHereError):
        train(compiled, disturbed.path, time_budget=BUDGET)
    clock.dies_at = None
    torch.manual_seed(1)
    train(compiled, disturbed.path, time_budget=BUDGET, resume=True)
    assert_equal(outcome(disturbed), expected)
    rows = [row for row in disturbed.metrics() if "compile_seconds" in row]
    assert [row["step"] for row in rows] == [0, 3]
    assert disturbed.result["throughput"]["compile_seconds"] == sum(row["compile_seconds"] for row in rows)
