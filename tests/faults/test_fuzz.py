"""Every reader of files from outside, fed with damaged and hostile ones: it reads them or refuses them in one line.

FLOWBENCH_FUZZ_INPUTS says how many inputs each reader gets (40).
"""

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flowbench.config.experiments import dump_experiment, load_experiment, shipped_folder
from flowbench.data import open_split
from flowbench.data.readers.arrays import pickled_images
from flowbench.errors import InputError
from flowbench.forecasting.series import read_series
from flowbench.report import build_from
from flowbench.runs.folder import RunFolder
from flowbench.tables.table import load_table
from flowbench.tasks.density import DensityTask
from flowbench.tracking.state import read_state
from flowbench.training.loop import train
from tests.faked_runs import FakeTrainer

INPUTS = int(os.environ.get("FLOWBENCH_FUZZ_INPUTS", "40"))

SNIPPETS = [
    *(
        b"\x00",
        b"\xff\xfe",
        b"\n",
        b"\r\n",
        b"\t",
        b" ",
        b'"',
        b"'",
        b",",
        b":",
        b"- ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"${x}",
    ),
    *(b"null", b"true", b".nan", b".inf", b"NaN", b"-1", b"1e999", b"9" * 40, b"0x1f", b"2020-01-01", b"!!python/none"),
    *(
        b"!!python/object/apply:os.system ['false']",
        b"&a [x]",
        b"*a",
        b"<<: *a",
        b"---\n",
        b"...\n",
        b"? x",
        b"| ",
        b"# ",
    ),
    *("\u202e\u00e9\U0001f600".encode(), b"\x1b[31m", b"../../etc/passwd", b"<script>", b"=1+1", b"%s%n", b"[" * 300),
]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Flip, cut, repeat and insert at a few places of a sound file."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(["flip", "cut", "repeat", "insert", "bytes", "end"])):
            case "flip" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del content[place : place + length]
            case "repeat":
                content[place:place] = content[place : place + length] * 3
            case "insert":
                content[place:place] = draw(st.sampled_from(SNIPPETS))
            case "bytes":
                content[place : place + length] = draw(st.binary(max_size=20))
            case "end":
                del content[place + draw(st.integers(0, len(content))) :]
    return bytes(content)


def hostile(whole: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(damaged(whole), damaged(whole), st.binary(max_size=200))


def reads_or_refuses(read: Callable[[], object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = ""
        try:
            read()
        except InputError as error:
            message = str(error)
        assert "\n" not in message
        assert len(message) < 3000


def fuzz(whole: bytes, check: Callable[[bytes], None]) -> None:
    @settings(
        max_examples=INPUTS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        derandomize=INPUTS == 40,
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile(whole))
    def run(content: bytes) -> None:
        check(content)

    run()


def file_check(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    def check(content: bytes) -> None:
        path.write_bytes(content)
        reads_or_refuses(lambda: read(path))

    return check


@pytest.mark.parametrize("name", ["real_nvp/digits", "etth/lstm2lstm"])
def test_experiment_files(tmp_path: Path, name: str) -> None:
    whole = (shipped_folder() / f"{name}.yaml").read_bytes()
    fuzz(whole, file_check(tmp_path / "x.yaml", load_experiment))


def test_table_files(tmp_path: Path) -> None:
    whole = (shipped_folder() / "tables" / "quick.yaml").read_bytes()
    fuzz(whole, file_check(tmp_path / "quick.yaml", lambda path: load_table(str(path))))


def test_overrides() -> None:
    def check(content: bytes) -> None:
        text = content.decode(errors="surrogateescape")
        reads_or_refuses(lambda: load_experiment("glow/digits", [text]))

    fuzz(b"model.levels=2", check)


def test_csv_files(tmp_path: Path) -> None:
    rows = "".join(f"2020-01-01 {hour:02}:00:00,{hour}.5,{hour}\n" for hour in range(24))
    fuzz(f"date,x,OT\n{rows}".encode(), file_check(tmp_path / "x.csv", read_series))


@pytest.fixture
def prepared(data_folder: Path) -> Path:
    folder = data_folder / "cifar10"
    folder.mkdir(parents=True)
    images = np.zeros((3, 32, 32, 3), np.uint8)
    np.save(folder / "train.npy", images)
    record = {"shape": images.shape, "files": {"train.npy": "0" * 64}, "content_sha256": "0" * 64}
    manifest = {
        **{"schema": 1, "name": "cifar10", "levels": 256, "licence": "none", "flowbench": "0"},
        **{"splits": {"train": record}, "source": {"format": "npy", "files": {}}, "preprocessing": {}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert open_split("cifar10", "train").array.shape == (3, 32, 32, 3)
    return folder


@pytest.mark.parametrize("file", ["manifest.json", "train.npy"])
def test_prepared_folders(prepared: Path, file: str) -> None:
    path = prepared / file

    def read(_: Path) -> None:
        images = open_split("cifar10", "train")
        assert images.take(np.arange(len(images))).dtype == np.uint8

    # Of the array the header is what can mislead.
    whole = path.read_bytes()
    fuzz(whole if file == "manifest.json" else whole[:200], file_check(path, read))


def test_pickled_batches() -> None:
    whole = pickle.dumps({b"data": np.zeros((2, 12), np.uint8), b"labels": [1, 2]}, protocol=2)
    fuzz(whole, lambda content: reads_or_refuses(lambda: pickled_images(io.BytesIO(content), Path("batch"), (3, 2, 2))))


def test_damaged_checkpoints(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    weights = torch.arange(32.0)
    run.save_checkpoint({"model": {"w": weights}, "step": 1})

    def read(_: Path) -> None:
        loaded = run.load_checkpoint()
        assert loaded is not None
        assert torch.equal(loaded[0]["model"]["w"], weights)

    path = tmp_path / "checkpoint.pt"
    fuzz(path.read_bytes(), file_check(path, read))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, bytes]:
    run = RunFolder(tmp_path_factory.mktemp("begun") / "run")
    train(load_experiment("nice/digits", ["model.features=4", "train.steps=0", "evaluate.draws=1"]), run.path)
    (run.path / "result.json").unlink()
    return run, (run.path / "checkpoint.pt").read_bytes()


def test_hostile_checkpoints_with_sound_checksums(
    begun: tuple[RunFolder, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pickle inside is the attacker's own, and its checksum is right.
    run, whole = begun
    monkeypatch.setattr(DensityTask, "evaluate", lambda *_: ({}, []))
    monkeypatch.setattr("flowbench.training.loop.draw_at_end", lambda _: [])
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))

    def check(content: bytes) -> None:
        with zipfile.ZipFile(run.path / "checkpoint.pt", "w") as archive:
            for member, data in members.items():
                archive.writestr(member, content if member == name else data)
        (run.path / "result.json").unlink(missing_ok=True)
        reads_or_refuses(lambda: train(run.experiment, run.path, resume=True))

    fuzz(members[name], check)


class Malicious:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def test_a_checkpoint_that_runs_code_is_refused(begun: tuple[RunFolder, bytes], tmp_path: Path) -> None:
    run, whole = begun
    proof = tmp_path / "proof"
    for state in (Malicious(proof), {"model": Malicious(proof)}):
        torch.save(state, run.path / "checkpoint.pt")
        (run.path / "checkpoint.previous.pt").unlink(missing_ok=True)
        with pytest.raises(InputError, match="not a checkpoint"):
            run.load_checkpoint()
    assert not proof.exists()
    (run.path / "checkpoint.pt").write_bytes(whole)


def test_a_checkpoint_of_another_form_is_refused_in_one_line(begun: tuple[RunFolder, bytes]) -> None:
    run, whole = begun
    for state in (({"step": 1}, None), {"step": "x"}, [1], {}):
        torch.save(state, run.path / "checkpoint.pt")
        (run.path / "checkpoint.previous.pt").unlink(missing_ok=True)
        with pytest.raises(InputError, match="not a checkpoint"):
            train(run.experiment, run.path, resume=True)
    (run.path / "checkpoint.pt").write_bytes(whole)


@pytest.mark.parametrize("content", ["{}", '{"dataset": 3}', '{"dataset": "digits", "metrics": []}'])
def test_a_result_of_another_form_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    run = RunFolder(tmp_path / "run")
    FakeTrainer()(load_experiment("real_nvp/digits"), run.path)
    (run.path / "result.json").write_text(content)
    with pytest.raises(InputError, match=r"result\.json: not a run's result"):
        build_from([str(run.path)], tmp_path / "page")


def test_a_value_of_another_type_is_refused_in_one_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    FakeTrainer()(load_experiment("real_nvp/digits"), run.path)
    result = run.result
    result["metrics"]["test"]["bits_per_dim"]["n"] = "many"
    run.write_result(result)
    with pytest.raises(InputError, match="run: damaged"):
        build_from([str(run.path)], tmp_path / "page")


@pytest.mark.parametrize("file", ["result.json", "environment.json", "metrics.jsonl", "config.yaml", "mlflow.json"])
def test_run_folders_in_reports(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")
    FakeTrainer()(load_experiment("real_nvp/digits"), run.path)
    (run.path / "mlflow.json").write_text(
        json.dumps({"uid": "0" * 32, "tracking_uri": "x", "run_id": "y", "covered_bytes": 1})
    )

    def read(_: Path) -> None:
        read_state(run.path)
        build_from([str(run.path)], tmp_path / "page")

    path = run.path / file
    fuzz(path.read_bytes()[:3000] if file == "metrics.jsonl" else path.read_bytes(), file_check(path, read))


def test_results_in_reports(tmp_path: Path) -> None:
    results = {
        **{"schema": 1, "table": "quick", "title": "Quick", "description": "", "flowbench": "0"},
        "rows": [
            {
                **{"row": "digits", "dataset": "digits", "experiment": "a/b", "model": "c", "metric": "bits_per_dim"},
                **{"split": "test", "value": 1.5, "stderr": 0.1, "n": 3, "seeds": [0], "seed_std": None},
                **{"horizon": None, "lookback": None, "status": "done", "reason": None, "budget": "quick"},
                **{"badges": [], "runs": [], "published": [], "reproduces": None, "labels": {}, "command": "x"},
                **{"data_status": "verified", "note": None},
            }
        ],
    }
    build = file_check(tmp_path / "results.json", lambda path: build_from([str(path)], tmp_path / "page"))
    (tmp_path / "results.json").write_text(json.dumps(results))
    build_from([str(tmp_path / "results.json")], tmp_path / "page")
    fuzz(json.dumps(results).encode(), build)


LAUGHS = "\n".join(
    ["a0: &a0 [lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)), "kind: density"]
)
DEEP = "x: " + "[" * 20_000


@pytest.mark.parametrize("text", [LAUGHS, DEEP, "a: " + "9" * 90_000, "? " * 3000 + "x", "x: 1\n" * 100_000])
def test_bombs_are_refused_quickly(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    for load in (load_experiment, lambda path: load_table(str(path))):
        with pytest.raises(InputError, match=r"bomb\.yaml"):
            load(path)


@pytest.mark.parametrize("text", ["88", "null", "x", "[1]", "", "1.5", "true"])
def test_a_file_of_one_value_is_no_experiment(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=r"x\.yaml"):
        load_experiment(tmp_path / "x.yaml")


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['touch {proof}']", "x: !!python/name:os.system"])
def test_yaml_constructs_no_objects(tmp_path: Path, text: str) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "x.yaml").write_text(text.format(proof=proof))
    with pytest.raises(InputError):
        load_experiment(tmp_path / "x.yaml")
    assert not proof.exists()


def test_the_fuzzing_starts_from_files_that_are_sound(tmp_path: Path) -> None:
    text = dump_experiment(load_experiment("real_nvp/digits"))
    (tmp_path / "x.yaml").write_text(text)
    assert load_experiment(tmp_path / "x.yaml") == load_experiment("real_nvp/digits")
    assert yaml.safe_load(text)["kind"] == "density"
