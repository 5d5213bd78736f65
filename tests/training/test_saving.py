"""Checkpoints are of the state when they were asked for, on disk when they are relied on; no step waits for them."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flowbench.config.experiments import load_experiment
from flowbench.runs.folder import RunFolder
from flowbench.tasks.density import DensityTask
from flowbench.training import loop
from flowbench.training.loop import train
from flowbench.training.saving import CheckpointWriter, on_host

TINY = ["model.levels=1", "model.steps=1", "model.hidden=4", "train.steps=8", "train.checkpoint_every=2"]


class Disk:
    """Takes the place of the folder: keeps what is saved, as slowly as it is told, and notices two at once."""

    def __init__(self) -> None:
        self.saved: list[Any] = []
        self.free = threading.Event()
        self.free.set()
        self.error: OSError | None = None
        self._busy = threading.Lock()

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        assert self._busy.acquire(blocking=False), "two at once"
        try:
            assert self.free.wait(20)
            if self.error is not None:
                raise self.error
            self.saved.append(state)
        finally:
            self._busy.release()


def test_what_is_copied_is_the_state_of_now_with_its_layout_and_its_versions() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
    state = {"model": model.state_dict(), "moments": [{"step": torch.tensor(1.0)}, (2, None)], "name": "x"}
    copied = on_host(state)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for value in [*model.state_dict().values(), state["moments"][0]["step"]]:
            value += 1
    assert all(torch.equal(copied["model"][key], value) for key, value in before.items())
    assert copied["model"]["0.weight"].stride() == model[0].weight.stride()
    assert isinstance(copied["model"], OrderedDict)
    assert copied["model"]._metadata == model.state_dict()._metadata
    assert copied["moments"] == [{"step": torch.tensor(1.0)}, (2, None)]
    assert copied["name"] == "x"


def test_they_are_written_one_after_the_other_while_the_state_goes_on() -> None:
    disk, weights = Disk(), torch.zeros(3)
    with CheckpointWriter(disk) as writer:  # type: ignore[arg-type]
        disk.free.clear()
        writer.write({"w": weights})
        weights += 1
        writer.check()
        assert disk.saved == []
        disk.free.set()
        writer.write({"w": weights})
        weights += 1
        writer.wait()
        assert [state["w"].tolist() for state in disk.saved] == [[0] * 3, [1] * 3]
        writer.write({"w": weights})
    assert disk.saved[-1]["w"].tolist() == [2] * 3


def diverge(disk: Disk) -> None:
    with CheckpointWriter(disk) as writer:  # type: ignore[arg-type]
        writer.write({})
        raise ValueError("of the training")


def test_an_error_of_the_disk_is_raised_once_and_never_in_place_of_another() -> None:
    disk = Disk()
    disk.error = OSError(28, "No space left on device")
    with CheckpointWriter(disk) as writer:  # type: ignore[arg-type]
        writer.write({})
        with pytest.raises(OSError, match="No space"):
            writer.wait()
        writer.wait()
        writer.write({})
        with pytest.raises(OSError, match="No space"):
            writer.write({})
    with pytest.raises(ValueError, match="of the training"):
        diverge(disk)


def test_no_step_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later, save, batch = threading.Event(), RunFolder.save_checkpoint, DensityTask.batch
    steps = []

    def slow(self: RunFolder, state: Mapping[str, Any]) -> None:
        if state["step"] == 2:
            assert later.wait(5), "the step after next waited for the checkpoint"
        save(self, state)

    def noticing(self: DensityTask, number: int) -> Any:
        steps.append(number)
        if number == 3:
            later.set()
        return batch(self, number)

    monkeypatch.setattr(RunFolder, "save_checkpoint", slow)
    monkeypatch.setattr(DensityTask, "batch", noticing)
    monkeypatch.setattr(DensityTask, "evaluate", lambda *_: ({}, []))
    monkeypatch.setattr(loop, "draw_at_end", lambda _: [])
    train(load_experiment("glow/digits", TINY), tmp_path / "run")
    loaded = RunFolder(tmp_path / "run").load_checkpoint()
    assert loaded is not None
    assert loaded[0]["step"] == 8


def test_a_disk_that_is_full_ends_the_training_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed, batch = threading.Event(), DensityTask.batch
    steps = []

    def full(self: RunFolder, state: Mapping[str, Any]) -> None:
        failed.set()
        raise OSError(28, "No space left on device", "checkpoint.pt")

    def noticing(self: DensityTask, number: int) -> Any:
        steps.append(number)
        if number == 2:
            assert failed.wait(20)
        return batch(self, number)

    monkeypatch.setattr(RunFolder, "save_checkpoint", full)
    monkeypatch.setattr(DensityTask, "batch", noticing)
    with pytest.raises(OSError, match="No space left"):
        train(load_experiment("glow/digits", [*TINY, "train.steps=1000"]), tmp_path / "run")
    assert max(steps) < 5
    assert not RunFolder(tmp_path / "run").finished
    assert "No space left" in (tmp_path / "run" / "failure.json").read_text()
