"""The command as people type it: results on stdout, one helpful line and an exit code for every mistake."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from flowbench.__main__ import main
from flowbench.config.experiments import experiment_names
from flowbench.config.registry import image_sets, series_sets
from flowbench.tracking.state import MirrorState, write_state

TINY = ["model.features=4", "train.steps=4", "evaluate.draws=1"]


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    monkeypatch.setenv("FLOWBENCH_OFFLINE", "1")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flowbench", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


def mistake(run, *arguments: str) -> str:
    code, _, errors = run(*arguments)
    lines = [line for line in errors.splitlines() if line.startswith("flowbench: ")]
    assert code == 2, errors
    assert len(lines) == 1, errors
    assert "Traceback" not in errors
    return lines[0]


def test_train_evaluate_report_and_figures_from_end_to_end(run) -> None:
    code, out, _ = run("train", "real_nvp/digits", *TINY, "--run-dir", "a", "--json")
    assert code == 0
    assert json.loads(out)["steps"] == 4
    code, out, _ = run("train", "real_nvp/digits", *TINY, "--run-dir", "a")
    assert (code, "was finished already" in out) == (0, True)
    code, out, _ = run("evaluate", "a", "--draws", "2", "--importance", "4", "--json")
    metrics = json.loads(out)["metrics"]["test"]
    assert code == 0
    assert metrics["bits_per_dim_importance"]["value"] < metrics["bits_per_dim"]["value"]
    assert run("figures", "a")[0] == 0
    assert run("report", "a", "--out", "page")[0] == 0
    assert "real_nvp/digits" in Path("page/report.html").read_text()


class Follower:
    """Stands for the mirror: remembers what it is told to follow."""

    followed: ClassVar[list[Path]] = []

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None: ...

    def follow(self, folder: Path) -> None:
        self.followed.append(folder)


def test_figures_are_chosen_by_kind_and_reach_mlflow_where_the_run_is_there(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("train", "independent/digits", "--run-dir", "a")[0] == 0
    monkeypatch.setattr("flowbench.tracking.Mirror", Follower)
    code, out, errors = run("figures", "a", "--kind", "samples, likelihood")
    assert (code, [Path(line).name for line in out.splitlines()]) == (0, ["samples.png", "likelihood.svg"])
    assert Follower.followed == []
    write_state(Path("a"), MirrorState("0" * 32, "sqlite:///mlflow.db", "1", 1))
    code, out, errors = run("figures", "a")
    assert (code, len(out.splitlines())) == (0, 3)
    assert "left out: manifold: independent has no latents" in errors
    assert Follower.followed == [Path("a")]
    assert "did you mean samples" in mistake(run, "figures", "a", "--kind", "sample")
    assert "no latents" in mistake(run, "figures", "a", "--kind", "manifold")


def test_reproduce_takes_overrides_labels_them_and_is_done_the_second_time(run) -> None:
    command = ["reproduce", "quick", "--only", "digits", "--jobs", "1", "train.steps=0", "evaluate.draws=1"]
    code, out, _ = run(*command, "--json")
    assert code == 0
    rows = json.loads(out)["rows"]
    assert all("custom" in row["badges"] for row in rows if row["status"] == "done")
    assert all(row["budget"] == "custom" for row in rows if row["status"] == "done")
    stamp = Path("results/quick/report.html").stat().st_mtime_ns
    assert run(*command)[0] == 0
    assert Path("results/quick/report.html").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "real_nvp/digits", "model.residual_block=2"], "did you mean residual_blocks"),
        (["train", "real_nvp/digits", "model.features=wide"], "model.features"),
        (["train", "real_nvp/digit"], "did you mean real_nvp/digits"),
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "mine.csv"], "flowbench train etth/nlinear data.csv=mine.csv data.protocol=ratio"),
        (["train", "real_nvp/cifar10"], "flowbench data prepare cifar10"),
        (["train", "real_nvp/digits", "--time-budget", "soon"], "20m"),
        (["train", "real_nvp/digits", "--seeds", "1,one"], "0,1,2"),
        (["train", "real_nvp/digits", "--seeds", "010"], "without leading zeros"),
        (["train", "real_nvp/digits", "seed=010"], "override seed: 010 is not in plain decimal digits"),
        (["train", "real_nvp/digits", "--run-dir", "/proc/nowhere"], "cannot be written"),
        (["train", "real_nvp/digits", "--resume"], "no unfinished run"),
        (["evaluate", "real_nvp/digits"], "no run"),
        (["reproduce", "quik"], "did you mean quick"),
        (["throughput", "run", "real_nvp/digits", "--out", "baseline"], "throughput files as NAME.json"),
        (["throughput", "gate", "a.json", "--baseline", "b.json", "--max-slowdown", "5"], "for example 5%, or a part"),
        (["reproduce", "quick", "--only", "digts"], "did you mean digits"),
        (["reproduce", "quick", "--only", "digits", "ETTh1 9"], "--only 'ETTh1 9': table quick has no such row"),
        (["reproduce", "real_nvp", "--only", "CIFAR-10", "model.featurez=2"], "row CIFAR-10"),
        (["data", "prepare", "cifar1"], "cifar10"),
        (["data", "prepare", "cifar10", "--source", "nowhere"], "nowhere"),
        (["data", "verify", "imagenet32"], "not prepared"),
        (["compare"], "name two models"),
        ([], "name a command (see flowbench --help)"),
        (["data"], "name a command (see flowbench data --help)"),
        (["compare", "--experiment", "real_nvp/*"], "no finished runs"),
        (["compare", "--study", "a"], "no such file"),
        (["tune", "etth/mean", "--trials", "2"], "searches nothing"),
        (["tune", "real_nvp/digits", "study.sampler=best"], "study.sampler"),
        (["tune", "real_nvp/digits", "--storage", "optuna.db"], "postgresql://"),
        (["trainn"], "trainn"),
    ],
)
def test_a_mistake_is_one_line_that_says_the_way_out(run, arguments: list[str], words: str) -> None:
    assert words in mistake(run, *arguments)
    assert not Path("runs").exists()


def test_a_file_where_a_folder_is_needed_is_named_as_such(run) -> None:
    Path("file").write_text("")
    assert run("train", "independent/digits", "--run-dir", "a")[0] == 0
    for arguments in (
        ["train", "independent/digits", "--run-dir", "file"],
        ["export", "a", "--out", "file/x"],
        ["report", "a", "--out", "file"],
        ["reproduce", "quick", "--only", "digits", "train.steps=0", "--jobs", "1", "--out", "file"],
    ):
        assert "a file stands where a folder is needed" in mistake(run, *arguments)
    assert sorted(path.name for path in Path().iterdir()) == ["a", "file"]


def test_a_config_that_was_changed_after_the_training_is_told_of(run) -> None:
    assert run("train", "real_nvp/digits", *TINY, "--run-dir", "a")[0] == 0
    config = Path("a/config.yaml")
    config.write_text(config.read_text().replace("features: 4", "features: 5"))
    assert "was config.yaml changed? put it back" in mistake(run, "evaluate", "a")


def test_a_list_fits_a_terminal_without_breaking_a_word(run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("list")[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("list")[1]
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.split() == whole.split()


def test_a_damaged_checkpoint_is_one_line(run) -> None:
    assert run("train", "real_nvp/digits", *TINY, "--run-dir", "a")[0] == 0
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        path = Path("a", name)
        if path.exists():
            content = path.read_bytes()[:-200]
            path.unlink()
            path.write_bytes(content)
    assert "damaged" in mistake(run, "evaluate", "a")


def test_a_corrupted_array_is_one_line_and_nothing_is_written(run) -> None:
    Path("source").mkdir()
    np.save("source/train.npy", np.zeros((4, 32, 32, 3), np.uint8))
    Path("source/test.npy").write_bytes(b"\x93NUMPY no array")
    assert "test.npy" in mistake(run, "data", "prepare", "cifar10", "--source", "source")
    assert not Path("data/cifar10").exists()


def test_version_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys; from flowbench.cli import app\n"
        "try: app(args=['train', '--help'], standalone_mode=False)\n"
        "finally: print({'torch', 'mlflow', 'pandas', 'omegaconf'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Example" in done.stdout
    assert done.stderr.strip() == "set()"


def test_the_list_says_which_sets_one_must_get_oneself_and_what_to_give(run) -> None:
    code, out, _ = run("data", "list", "-v")
    blocks = {block.partition(":")[0]: block for block in out.split("\n\n", 1)[1].replace("\n  ", "  ").splitlines()}
    assert code == 0
    for name in ("imagenet32", "imagenet64-chrabaszcz", "lsun-bedroom", "celeba"):
        assert "never downloads it" in blocks[name]
        assert f"flowbench data prepare {name} --source PATH; PATH: " in blocks[name]
    for name in ("cifar10", "folder", "digits", "etth1"):
        assert "never downloads it" not in blocks[name]
    assert "--download, or --source PATH; PATH: train.npy + test.npy" in blocks["cifar10"]
    assert "; cite: \n" not in out
    assert "\n  ;" not in out


def test_a_data_set_is_one_line_unless_more_is_asked_for(run) -> None:
    _, out, _ = run("data", "list")
    names = [line.partition(":")[0] for line in out.splitlines()[2:-2]]
    assert names == sorted(image_sets) + sorted(series_sets)
    assert out.rstrip().endswith("flowbench data list -v")


def test_list_names_all_that_there_is(run) -> None:
    _, out, _ = run("list")
    for line in (
        r"experiments:",
        r"  real_nvp/cifar10 +density, real_nvp, cifar10, paper",
        r"  etth/nlinear +forecast, nlinear, etth1",
        r"tables:",
        r"  quick +\S.*",
        r"models:",
        r"  glow +density, .*Glow.*",
        r"  patchtst +forecast, .*PatchTST.*",
        r"datasets:",
        r"  digits +scikit-learn's 8x8 .*, here: verified",
        r"  celeba +.*, not here",
    ):
        assert re.search(f"^{line}$", out, re.MULTILINE), line
    _, out, _ = run("list", "experiments")
    assert [line.split()[0] for line in out.splitlines()] == experiment_names()
    listed = json.loads(run("list", "--json")[1])
    assert list(listed) == ["experiments", "tables", "models", "datasets"]
    assert {"name": "nice/digits", "kind": "density", "model": "nice", "dataset": "digits", "preset": ""} in listed[
        "experiments"
    ]


def test_a_broken_file_of_ones_own_is_listed_with_its_problem(run) -> None:
    path = Path("experiments/mine/broken.yaml")
    path.parent.mkdir(parents=True)
    path.write_text("kind: densty\n")
    assert re.search(r"^mine/broken +\S*broken.yaml: kind: 'densty'", run("list", "experiments")[1], re.MULTILINE)


def test_a_missing_experiment_is_told_where_to_find_one(run) -> None:
    for command in (["train"], ["tune"], ["throughput", "run"]):
        assert "flowbench list experiments" in mistake(run, *command)


def test_one_broken_image_is_counted_in_the_singular(run) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for number in range(count):
            path = Path("images", split, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(path)
    Path("images/train/1.png").write_bytes(b"no image")
    assert "1.png" in mistake(run, "data", "prepare", "cifar10", "--source", "images")
    code, out, _ = run("data", "prepare", "cifar10", "--source", "images", "--skip-broken")
    assert code == 0
    assert "train: 2, unverified, 1 broken image left out" in out
    assert "train: 2, unverified, 1 broken image left out" in run("data", "verify", "cifar10")[1]
