"""Full disks, power that fails between two writes, bits that flip: what was saved stays, or is known to be damaged."""

import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.runs.folder import RunFolder
from flowbench.system import atomic
from tests.faults.commands import FLOWBENCH, finish, start

SIZE = 4_000_000
TINY = ["real_nvp/digits", "model.features=8", "train.steps=40", "train.checkpoint_every=2", "evaluate.draws=1"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 4 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_space(small_disk: Path) -> None:
    run = RunFolder(small_disk / "run")
    command = [*FLOWBENCH, "train", *TINY, "--run-dir", str(run.path)]
    filler = small_disk / "filler"
    filler.write_bytes(bytes(SIZE - 150_000))
    _, errors = finish(start(command), code=3)
    assert "no space left: free some" in errors
    assert str(small_disk) in errors
    assert "Traceback" not in errors
    assert not list(run.path.glob("*.partial*"))
    filler.unlink()
    finish(start([*command, "--resume"]))
    assert run.finished


def run_with_a_checkpoint(folder: Path) -> RunFolder:
    run = RunFolder(folder)
    run.begin(load_experiment("real_nvp/digits"), {"python": "3"})
    run.append_metrics({"step": 1, "epoch": 0, "time": 0.0})
    run.save_checkpoint({"model": {"w": torch.arange(64.0)}, "step": 1})
    return run


def test_power_loss_finds_the_bytes_on_disk_before_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with_a_checkpoint(tmp_path / "run")
    run.append_metrics({"step": 2, "epoch": 0, "time": 0.0})
    events: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def recording_fsync(descriptor: int) -> None:
        events.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def recording_replace(self: Path, target: Path) -> Path:
        events.append(("name", Path(target).name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "replace", recording_replace)
    run.save_checkpoint({"model": {"w": torch.arange(64.0)}, "step": 2})
    kinds = [(kind, "checkpoint" if "partial" in name else name) for kind, name in events]
    assert kinds == [
        ("sync", "metrics.jsonl"),
        ("name", "checkpoint.previous.pt"),
        ("sync", "checkpoint"),
        ("name", "checkpoint.pt"),
        ("sync", "run"),
    ]


class PowerLossError(BaseException):
    pass


def dying_after(left: Iterator[int], original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        if next(left) == 0:
            raise PowerLossError
        return original(*arguments)

    return call


def test_a_writer_that_dies_at_any_moment_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [(os, "fsync"), (os, "link"), (Path, "replace"), (Path, "chmod"), (Path, "write_bytes")]
    for moment in range(20):
        folder = tmp_path / str(moment)
        run = run_with_a_checkpoint(folder)
        left = itertools.count(moment, -1)
        with monkeypatch.context() as patched:
            for owner, name in calls:
                patched.setattr(owner, name, dying_after(left, getattr(owner, name)))
            try:
                run.save_checkpoint({"model": {"w": torch.zeros(64)}, "step": 2})
            except PowerLossError:
                ended = False
            else:
                ended = True
        loaded = run.load_checkpoint()
        assert loaded is not None
        assert loaded[0]["step"] in (1, 2)
        assert loaded[1] is None
        if ended:
            assert moment > 5
            return
    pytest.fail("the checkpoint was never written whole")


def test_what_killed_writers_left_is_swept_away(tmp_path: Path) -> None:
    run = run_with_a_checkpoint(tmp_path / "run")
    leftover = run.path / ".checkpoint.pt.x8hq12ab.partial.pt"
    leftover.write_bytes(b"half")
    with run.lock():
        assert not leftover.exists()
    assert run.load_checkpoint() is not None


def test_a_file_system_without_hard_links_keeps_two_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run = run_with_a_checkpoint(tmp_path / "run")
    run.save_checkpoint({"model": {"w": torch.zeros(64)}, "step": 2})
    (run.path / "checkpoint.pt").unlink()
    loaded = run.load_checkpoint()
    assert loaded is not None
    assert loaded[0]["step"] == 1


@pytest.mark.parametrize("seed", range(4))
def test_no_flipped_bit_or_lost_end_changes_what_is_loaded(tmp_path: Path, seed: int) -> None:
    run = run_with_a_checkpoint(tmp_path / "run")
    run.save_checkpoint({"model": {"w": torch.arange(64.0) + 1}, "step": 2})
    path, chance = run.path / "checkpoint.pt", random.Random(seed)
    whole = path.read_bytes()
    fell_back = 0
    for _ in range(60):
        damaged = bytearray(whole)
        if chance.random() < 0.8:
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        else:
            del damaged[chance.randrange(len(whole)) :]
        path.unlink()
        path.write_bytes(damaged)
        loaded = run.load_checkpoint()
        assert loaded is not None
        state, note = loaded
        assert torch.equal(state["model"]["w"], torch.arange(64.0) + (state["step"] == 2))
        assert (note is None) == (state["step"] == 2)
        if note is not None:
            assert "\n" not in note
            assert "using checkpoint.previous.pt" in note
            fell_back += 1
    assert fell_back > 10


def test_both_checkpoints_damaged_is_one_line(tmp_path: Path) -> None:
    run = run_with_a_checkpoint(tmp_path / "run")
    (run.path / "checkpoint.pt").write_bytes(b"PK\x03\x04 and nothing")
    with pytest.raises(InputError, match="train again"):
        run.load_checkpoint()


def test_errors_name_the_file_that_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        atomic.write_text(tmp_path / "table.csv", "x")
    assert caught.value.filename == str(tmp_path / "table.csv")
