import os
import shutil
from pathlib import Path

import pytest
import torch

from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.runs.folder import RunFolder, find_run, new_run_path, run_path_of


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment("real_nvp/digits")
    folder = RunFolder(new_run_path(experiment))
    with folder.lock():
        folder.begin(experiment, {"python": "3"})
    return folder


def state(value: float) -> dict[str, object]:
    return {"model": {"weight": torch.full((64,), value)}, "step": int(value)}


def test_config_comes_back_and_another_is_refused(run: RunFolder) -> None:
    assert run.experiment == load_experiment("real_nvp/digits")
    with pytest.raises(InputError, match="another config"):
        run.check_config(load_experiment("real_nvp/digits", ["seed=7"]))


def test_two_checkpoints_are_kept_and_the_newest_is_loaded(run: RunFolder) -> None:
    assert run.load_checkpoint() is None
    for value in (1.0, 2.0, 3.0):
        run.save_checkpoint(state(value))
    loaded = run.load_checkpoint()
    assert loaded is not None
    assert loaded[0]["step"] == 3
    assert loaded[1] is None
    previous = torch.load(run.path / "checkpoint.previous.pt", weights_only=True)
    assert previous["step"] == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(run: RunFolder, damage: str) -> None:
    run.save_checkpoint(state(1.0))
    run.save_checkpoint(state(2.0))
    path = run.path / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        weights = torch.full((64,), 2.0).numpy().tobytes()
        content[content.find(weights) + 5] ^= 1
    # A new file: checkpoint.previous.pt may share the old one's bytes.
    path.unlink()
    path.write_bytes({"flip": content, "truncate": content[:-40], "empty": b"", "text": b"no zip"}[damage])
    loaded = run.load_checkpoint()
    assert loaded is not None
    assert loaded[0]["step"] == 1
    assert loaded[1] is not None
    assert "checkpoint.pt" in loaded[1]
    (run.path / "checkpoint.previous.pt").write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        run.load_checkpoint()


def test_metrics_survive_a_torn_line_and_are_cut_at_a_step(run: RunFolder) -> None:
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "epoch": 0, "time": 0.0, "loss": float("nan") if step == 2 else 1.0})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "ep')
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert run.metrics()[1]["loss"] is None
    run.cut_metrics(2)
    run.append_metrics({"step": 3, "epoch": 0, "time": 1.0})
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]


def test_one_training_per_folder(run: RunFolder) -> None:
    with run.lock(), pytest.raises(InputError, match="another process"), run.lock():
        pass


def test_a_run_beside_the_named_ones_is_suggested(run: RunFolder) -> None:
    shutil.copytree(run.path, "runs/first")
    shutil.rmtree("runs/real_nvp")
    with pytest.raises(InputError, match=r"did you mean runs/first\?"):
        find_run("runs/frist")
    shutil.rmtree("runs")
    with pytest.raises(InputError, match="no runs under runs/ yet"):
        find_run("runs/first")


def test_runs_are_found_by_folder_by_id_and_by_experiment(run: RunFolder) -> None:
    assert find_run(str(run.path)).path == run.path
    assert find_run(f"real_nvp/digits/{run.path.name}").path == Path("runs/real_nvp/digits") / run.path.name
    assert run_path_of(run.experiment, None, resume=True) == Path("runs/real_nvp/digits") / run.path.name
    with pytest.raises(InputError, match="no run 'real_nvp/digits'"):
        find_run("real_nvp/digits")
    run.write_result({"schema": 1})
    assert find_run("real_nvp/digits").result == {"schema": 1}
    with pytest.raises(InputError, match="no unfinished run of this config"):
        run_path_of(run.experiment, None, resume=True)
    # One of several seeds is at its end, another one not begun: the others go on.
    assert run_path_of(run.experiment, None, resume=True, one_of_many=True).name == run.path.name
    other = load_experiment("real_nvp/digits", ["seed=5"])
    assert not run_path_of(other, None, resume=True, one_of_many=True).exists()


def test_the_run_that_goes_on_is_of_the_same_file_and_nobody_elses_config_is_in_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begun = {}
    for name in ("b", "a"):
        experiment = load_experiment("etth/nlinear", [f"data.csv={name}.csv"])
        begun[name] = RunFolder(new_run_path(experiment))
        begun[name].begin(experiment, {})
    foreign = begun["a"].path.with_name("foreign") / "config.yaml"
    foreign.parent.mkdir()
    foreign.write_text("zzz: 1\n")
    for name, run in begun.items():
        assert run_path_of(load_experiment("etth/nlinear", [f"data.csv={name}.csv"]), None, resume=True) == run.path


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="root may write everywhere here")
def test_an_unwritable_folder_is_one_line() -> None:
    with pytest.raises(InputError, match="cannot be written"), RunFolder(Path("/proc/flowbench")).lock():
        pass


def test_whoever_trains_next_removes_what_a_killed_writer_left_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    leftovers = [folder / ".name.json.x1y2.partial.json" for folder in (run.path, run.figures, run.evaluations)]
    kept = [leftover.with_name("name.json") for leftover in leftovers]
    for path in (*leftovers, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    with run.lock():
        assert [path.exists() for path in leftovers] == [False] * 3
    assert [path.read_text() for path in kept] == ["{}"] * 3


def test_a_broken_config_is_told_of_where_nothing_says_what_it_imported(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("kind: nothing")
    with pytest.raises(InputError, match="kind: 'nothing' is none of density, forecast"):
        _ = RunFolder(tmp_path).experiment


def test_the_good_checkpoint_survives_the_next_save_after_a_damaged_one(run: RunFolder) -> None:
    for value in (1.0, 2.0):
        run.save_checkpoint(state(value))
    checkpoint = run.path / "checkpoint.pt"
    checkpoint.unlink()
    checkpoint.write_bytes(b"torn")
    run.set_aside_checkpoint()
    run.save_checkpoint(state(3.0))
    checkpoint.unlink()
    checkpoint.write_bytes(b"torn again")
    loaded = run.load_checkpoint()
    assert loaded is not None
    assert loaded[0]["step"] == 1
