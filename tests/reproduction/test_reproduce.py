import json
import math
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flowbench.data.preparing import prepare
from flowbench.errors import InputError, WorkFailedError
from flowbench.reproduction import agenda, downloading
from flowbench.reproduction.downloading import quick_download
from flowbench.reproduction.reproduce import failure, reproduce, unfinished
from flowbench.system.interruption import Interrupted
from flowbench.tables.table import load_table
from tests.faked_runs import FakeTrainer
from tests.faults.commands import FLOWBENCH, finish, kill, start, wait_until

FLOW, BASELINE = "real_nvp/digits", "independent/digits"
EXPERIMENTS = [entry.name for row in load_table("quick").rows for entry in row.experiments]

ROW_OF_A_FILE = """
  - row: {name}
    dataset: mine
    metric: mae
    split: test
    experiments: [{{name: etth/repeat_last, overrides: [data.csv={file}]}}]
"""


def rows_of(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["experiment"]: row for row in results["rows"]}


def test_a_table_is_run_written_and_skipped_the_second_time(tmp_path: Path) -> None:
    trainer = FakeTrainer({(FLOW, 0): 1.95, (BASELINE, 0): 2.43})
    results = reproduce("quick", out=tmp_path, trainer=trainer)
    row = rows_of(results)[FLOW]
    assert (row["value"], row["stderr"], row["n"], row["seed_std"]) == (1.95, 0.02, 360, None)
    assert (row["status"], row["budget"], row["badges"]) == ("done", "quick", ["quick"])
    assert failure(results) is None
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert all((tmp_path / row["runs"][0] / "result.json").is_file() for row in results["rows"])
    written = (tmp_path / "report.html").stat().st_mtime_ns
    assert reproduce("quick", out=tmp_path, trainer=trainer) == results
    assert len(trainer.calls) == len(EXPERIMENTS)
    assert (tmp_path / "report.html").stat().st_mtime_ns == written


def test_a_kill_between_results_and_page_does_not_leave_the_page_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, build, left = FakeTrainer(), agenda.report.build, iter([True, True])

    def dying(*arguments: Any, **options: Any) -> Path:
        if next(left, False):
            return build(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(agenda.report, "build", dying)
        with pytest.raises(KeyboardInterrupt):
            reproduce("quick", only=["etth1"], out=tmp_path, trainer=trainer)
    assert [row["status"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]].count("done") == 2
    assert (tmp_path / "table.csv").read_text().count(",done,") == 1
    reproduce("quick", only=["etth1"], out=tmp_path, trainer=trainer)
    assert (tmp_path / "table.csv").read_text().count(",done,") == 2
    assert len(trainer.calls) == 2


def test_a_killed_call_leaves_a_valid_state_and_goes_on_in_the_same_folders(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        reproduce("quick", out=tmp_path, trainer=FakeTrainer({(FLOW, 0): KeyboardInterrupt()}))
    stored = rows_of(json.loads((tmp_path / "results.json").read_text()))
    assert (stored[BASELINE]["status"], stored[FLOW]["status"]) == ("done", "not_run")
    assert (tmp_path / "report.html").is_file()
    trainer = FakeTrainer()
    assert failure(reproduce("quick", out=tmp_path, trainer=trainer)) is None
    assert trainer.calls == [(name, 0) for name in EXPERIMENTS if name != BASELINE]
    assert len(list((tmp_path / "runs").iterdir())) == len(EXPERIMENTS)


def test_a_stopped_table_says_how_the_table_goes_on_not_the_run(tmp_path: Path) -> None:
    trainer = FakeTrainer({(FLOW, 0): Interrupted("run: stopped at step 3: go on with --resume", signal.SIGTERM)})
    with pytest.raises(Interrupted, match=r"saved: to go on: flowbench reproduce$") as stopped:
        reproduce("quick", out=tmp_path, trainer=trainer, again="to go on: flowbench reproduce")
    assert stopped.value.exit_code == 143


def test_the_command_that_goes_on_is_named_in_full_at_ctrl_c(tmp_path: Path) -> None:
    words = ["reproduce", "quick", "--only", "digits", "--jobs", "1", "train.log_every=1", "data.batch_size=8"]
    words += ["--out", "my results"]
    process = start([*FLOWBENCH, *words], cwd=tmp_path)
    assert wait_until(lambda: any(tmp_path.glob("my results/runs/real_nvp*/metrics.jsonl")), process)
    kill(process, signal.SIGINT)
    _, errors = finish(process, code=130)
    last = errors.splitlines()[-1]
    assert last == f"flowbench: my results: stopped and saved: to go on: flowbench {shlex.join(words)}"


def test_a_failed_and_a_skipped_line_leave_the_others(tmp_path: Path) -> None:
    trainer = FakeTrainer({(BASELINE, 0): InputError("not here: get it"), (FLOW, 0): 2.0})
    results = reproduce("quick", out=tmp_path / "a", trainer=trainer)
    assert (rows_of(results)[BASELINE]["status"], rows_of(results)[BASELINE]["reason"]) == (
        "skipped",
        "not here: get it",
    )
    assert failure(results) is None
    results = reproduce("quick", out=tmp_path / "b", trainer=FakeTrainer({(FLOW, 0): WorkFailedError("diverged")}))
    assert rows_of(results)[FLOW]["value"] is None
    assert rows_of(results)[BASELINE]["status"] == "done"
    error = failure(results)
    assert error is not None
    assert error.exit_code == 3
    assert "diverged" in str(error)


def test_an_unexpected_error_is_its_own_rows(tmp_path: Path) -> None:
    trainer = FakeTrainer({(BASELINE, 0): RuntimeError("could not create a primitive")})
    rows = rows_of(reproduce("quick", only=["digits"], out=tmp_path, trainer=trainer))
    assert (rows[BASELINE]["status"], rows[FLOW]["status"]) == ("failed", "done")
    assert rows[BASELINE]["reason"] == "RuntimeError: could not create a primitive"


def test_a_table_of_which_nothing_could_be_run_is_bad_input(tmp_path: Path) -> None:
    missing = InputError("digits: run `flowbench data prepare`")
    results = reproduce("quick", out=tmp_path, trainer=FakeTrainer({(name, 0): missing for name in EXPERIMENTS}))
    error = failure(results)
    assert error is not None
    assert error.exit_code == 2
    assert "flowbench data prepare" in str(error)


def test_seeds_are_averaged_with_their_spread(tmp_path: Path) -> None:
    trainer = FakeTrainer({(FLOW, 0): 1.0, (FLOW, 1): 2.0, (FLOW, 2): 3.0})
    row = rows_of(reproduce("quick", out=tmp_path, seeds=[0, 1, 2], trainer=trainer))[FLOW]
    assert (row["value"], row["seed_std"], row["seeds"], len(row["runs"])) == (2.0, 1.0, [0, 1, 2], 3)
    assert row["stderr"] == pytest.approx(0.02)


def test_overrides_reach_the_selected_rows_and_unknown_ones_name_the_row(tmp_path: Path) -> None:
    trainer = FakeTrainer(budget="custom")
    row = rows_of(reproduce("quick", out=tmp_path, overrides=["train.log_every=7"], trainer=trainer))[FLOW]
    assert (row["budget"], row["badges"]) == ("custom", ["custom"])
    assert "train.log_every=7" in row["command"]
    with pytest.raises(InputError, match=r"row digits: .*features"):
        reproduce("quick", out=tmp_path, overrides=["model.features=8"], trainer=trainer)
    assert len(trainer.calls) == len(EXPERIMENTS)


def test_a_split_that_no_run_is_measured_on_is_refused_before_anything_runs(tmp_path: Path, data_folder: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / "source" / part).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "source" / part / "0.png")
    prepare("folder", tmp_path / "source", own_name="mine")
    table = """
        table: t
        title: t
        description: t
        rows:
          - row: mine
            dataset: mine
            metric: bits_per_dim
            split: SPLIT
            experiments: [{name: independent/digits, overrides: [data.name=mine]}]
    """
    path = tmp_path / "t.yaml"
    path.write_text(table.replace("SPLIT", "test"))
    with pytest.raises(
        InputError, match="row mine: split: test, but runs on mine are measured on train and validation"
    ):
        reproduce(str(path), out=tmp_path / "out", trainer=FakeTrainer())
    assert not (tmp_path / "out").exists()
    path.write_text(table.replace("SPLIT", "validation"))
    assert len(unfinished(str(path), out=tmp_path / "out")) == 1


def test_only_runs_the_named_rows(tmp_path: Path) -> None:
    trainer = FakeTrainer({("real_nvp/celeba", 0): InputError("celeba is not prepared")})
    results = reproduce("real_nvp", only=["CELEBA"], out=tmp_path, trainer=trainer)
    assert trainer.calls == [("real_nvp/celeba", 0)]
    assert {row["status"] for row in results["rows"] if row["row"] != "CelebA"} == {"not_run"}
    with pytest.raises(InputError, match="did you mean celeba"):
        reproduce("real_nvp", only=["celeb"], out=tmp_path, trainer=trainer)


def test_rows_not_asked_for_keep_a_stored_figure_of_the_same_config_and_seeds(tmp_path: Path) -> None:
    stored = reproduce("quick", out=tmp_path, trainer=FakeTrainer({(FLOW, 0): 1.95}))
    shutil.rmtree(tmp_path / "runs")
    again = rows_of(reproduce("quick", only=["etth1"], out=tmp_path, trainer=FakeTrainer()))
    assert again[FLOW] == rows_of(stored)[FLOW]
    for key, other in (("config", "0" * 12), ("seeds", [0, 1])):
        content = {**stored, "rows": [{**row, key: other} for row in stored["rows"]]}
        (tmp_path / "results.json").write_text(json.dumps(content))
        again = rows_of(reproduce("quick", only=["etth1"], out=tmp_path, trainer=FakeTrainer()))
        assert (again[FLOW]["status"], again[FLOW]["value"]) == ("not_run", None)


def test_two_csv_files_are_two_runs_and_a_changed_one_is_another(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.csv" for name in ("first", "second")}
    for name, file in files.items():
        file.write_text(f"date,OT\n2024-01-01,{len(name)}\n")
    rows = "".join(ROW_OF_A_FILE.format(name=name, file=file) for name, file in files.items())
    (tmp_path / "mine.yaml").write_text(f"table: mine\ntitle: Mine\ndescription: Two files.\nrows:\n{rows}")
    trainer = FakeTrainer()

    def runs() -> list[str]:
        results = reproduce(str(tmp_path / "mine.yaml"), out=tmp_path / "out", trainer=trainer)
        return [row["runs"][0] for row in results["rows"]]

    first, second = runs()
    assert first != second
    assert (runs(), len(trainer.calls)) == ([first, second], 2)
    files["second"].write_text("date,OT\n2024-01-01,7\n")
    assert runs()[0] == first
    assert runs()[1] != second
    assert len(trainer.calls) == 3


def test_an_experiment_that_stands_twice_in_a_row_keeps_both_of_its_stored_figures(tmp_path: Path) -> None:
    entries = f"[{BASELINE}, {{name: {BASELINE}, overrides: [seed=1]}}]"
    (tmp_path / "twice.yaml").write_text(
        "table: twice\ntitle: Twice\ndescription: One model, two lines.\nrows:\n"
        f"  - {{row: a, dataset: digits, metric: bits_per_dim, split: test, experiments: {entries}}}\n"
        f"  - {{row: b, dataset: digits, metric: bits_per_dim, split: test, experiments: [{FLOW}]}}\n"
    )
    trainer = FakeTrainer({(BASELINE, 0): 2.4, (BASELINE, 1): 2.5})
    reproduce(str(tmp_path / "twice.yaml"), out=tmp_path / "out", trainer=trainer)
    shutil.rmtree(tmp_path / "out" / "runs")
    again = reproduce(str(tmp_path / "twice.yaml"), only=["b"], out=tmp_path / "out", trainer=trainer)
    assert [row["value"] for row in again["rows"]] == [2.4, 2.5, 2.0]


def test_a_run_that_another_process_ends_meanwhile_is_told_and_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = FakeTrainer()

    def meanwhile(agenda: agenda.Agenda, runs: list[Path], number: int) -> list[str]:
        for experiment, run in agenda.unfinished:
            trainer(experiment, run)
        return []

    monkeypatch.setattr("flowbench.reproduction.reproduce.plan", meanwhile)
    results = reproduce("quick", only=["etth1"], out=tmp_path, trainer=lambda experiment, run: None)
    assert {row["status"] for row in results["rows"] if row["dataset"] == "etth1"} == {"done"}


@pytest.mark.parametrize("content", ['{"rows": null}', '{"rows": [1]}', '{"rows": [{"row": "digits"}]}', "[]", "no"])
def test_a_foreign_results_file_is_written_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    assert failure(reproduce("quick", out=tmp_path, trainer=FakeTrainer())) is None


def test_a_figure_that_is_not_finite_never_reaches_the_table(tmp_path: Path) -> None:
    broken = {(name, 0): math.inf if name == BASELINE else math.nan for name in EXPERIMENTS}
    results = reproduce("quick", out=tmp_path, trainer=FakeTrainer(broken))
    assert {(row["status"], row["value"]) for row in results["rows"]} == {("failed", None)}
    for name in ("results.json", "table.csv", "table.md"):
        assert "nan" not in (tmp_path / name).read_text().lower()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"numerics": {"model": 0, "data": 1}}, "computes differently"),
        ({"numerics": {"model": 1, "data": 0}}, "prepared differently"),
        ({"data_fingerprint": "0" * 64}, "fingerprint"),
    ],
)
def test_stale_results_are_marked(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    trainer = FakeTrainer()
    results = reproduce("quick", out=tmp_path, trainer=trainer)
    path = tmp_path / rows_of(results)[FLOW]["runs"][0] / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    again = rows_of(reproduce("quick", out=tmp_path, trainer=trainer))
    assert "stale" in again[FLOW]["badges"]
    assert word in again[FLOW]["reason"]
    assert "stale" not in again[BASELINE]["badges"]
    assert len(trainer.calls) == len(EXPERIMENTS)


def test_dirty_trees_and_unverified_data_are_marked(tmp_path: Path) -> None:
    class Unverified(FakeTrainer):
        def result(self, *arguments: Any) -> dict[str, Any]:
            return {**super().result(*arguments), "data_status": "unverified"}

    row = rows_of(reproduce("quick", out=tmp_path, trainer=Unverified(dirty=True)))[FLOW]
    assert row["badges"] == ["quick", "unverified", "dirty"]


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trainer = FakeTrainer()
    with pytest.raises(InputError, match="cannot be written"):
        reproduce("quick", out=tmp_path / "file", trainer=trainer)
    assert trainer.calls == []


def test_an_optional_row_tries_one_download_and_then_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWBENCH_DATA", str(tmp_path / "data"))
    table = tmp_path / "mine.yaml"
    row = {"row": "x", "dataset": "digits", "metric": "bits_per_dim", "split": "test", "experiments": [FLOW]}
    content = {"table": "mine", "title": "x", "description": "x", "rows": [{**row, "optional": "download"}]}
    table.write_text(json.dumps(content))
    trainer = FakeTrainer({(FLOW, 0): InputError("not here")})
    asked: list[str] = []

    def download(name: str) -> None:
        asked.append(name)
        trainer.values.clear()

    results = reproduce(str(table), out=tmp_path / "out", trainer=trainer, download=download)
    assert asked == ["digits"]
    assert results["rows"][0]["status"] == "done"


def test_a_failed_quick_download_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWBENCH_DATA", str(tmp_path))
    monkeypatch.delenv("FLOWBENCH_OFFLINE", raising=False)
    calls: list[int] = []

    def hang(*_: Any, timeout: float, **__: Any) -> None:
        calls.append(1)
        raise subprocess.TimeoutExpired(sys.executable, timeout)

    monkeypatch.setattr(downloading.subprocess, "run", hang)
    with pytest.raises(InputError, match="10 seconds: get it with"):
        quick_download("etth1")
    with pytest.raises(InputError, match="earlier quick download failed"):
        quick_download("etth1")
    assert len(calls) == 1
    monkeypatch.setenv("FLOWBENCH_DATA", str(tmp_path / "a-file" / "data"))
    (tmp_path / "a-file").touch()  # a data root that cannot be made remembers nothing, and is no other error
    with pytest.raises(InputError, match="10 seconds: get it with"):
        quick_download("etth1")
    monkeypatch.setenv("FLOWBENCH_OFFLINE", "1")
    with pytest.raises(InputError, match="FLOWBENCH_OFFLINE"):
        quick_download("other")


def test_a_call_fails_for_the_rows_that_it_was_asked_for() -> None:
    rows = [
        {"row": "digits", "dataset": "digits", "experiment": "a", "status": "done", "reason": None},
        {"row": "ETTh1 96", "dataset": "etth1", "experiment": "b", "status": "skipped", "reason": "not here"},
        {"row": "ETTh2 96", "dataset": "etth2", "experiment": "c", "status": "failed", "reason": "diverged"},
    ]
    results = {"table": "quick", "rows": rows}
    assert failure(results, ["DIGITS"]) is None
    assert isinstance(failure(results, ["etth1"]), InputError)
    assert isinstance(failure(results, ["ETTh2 96"]), WorkFailedError)
    assert isinstance(failure(results), WorkFailedError)


def test_a_row_that_is_left_out_is_told_to_who_watches(tmp_path: Path) -> None:
    rows = [{"row": "ETTh1 96", "experiment": "etth/nlinear", "status": "skipped"}]
    (tmp_path / "results.json").write_text(json.dumps({"rows": rows}))
    planned = agenda.Agenda(load_table("quick"), tmp_path, "", None, [])
    planned.plan(planned.table.select(["ETTh1 96"]), {})
    states = {one.experiment: one.state for one in planned.watched_from_outside()}
    assert states["etth/nlinear"] == "skipped"
    assert set(states.values()) == {"skipped", "waiting"}


@pytest.mark.pictures
def test_a_line_shows_the_curves_of_its_own_runs(tmp_path: Path) -> None:
    """Other overrides, then the first ones again: the later files are of other runs."""
    pages = []
    for overrides in ((), ("train.steps=20",), ()):
        reproduce("quick", only=["digits"], out=tmp_path, trainer=FakeTrainer(), overrides=overrides)
        pages.append(sorted(path.name for path in (tmp_path / "plots").glob("*real-nvp*training*.svg")))
    assert pages[0] == pages[2] != pages[1]
    assert all(len(names) == 1 for names in pages)


def test_a_figure_that_is_null_is_a_failed_row_and_no_broken_page(tmp_path: Path) -> None:
    class Unitless(FakeTrainer):
        def result(self, experiment: Any, value: float) -> dict[str, Any]:
            metrics = {"test": {"mae_original": {"value": None, "per_column": {"OT": 1.0}, "n": 5, "stderr": None}}}
            return {**super().result(experiment, value), "metrics": metrics}

    table = tmp_path / "mine.yaml"
    table.write_text(
        "table: mine\ntitle: mine\ndescription: d\nrows:\n  - row: mine\n    dataset: etth1\n    metric: mae_original\n"
        "    split: test\n    experiments: [{name: etth/nlinear, seeds: [0, 1]}]\n"
    )
    results = reproduce(str(table), out=tmp_path / "out", trainer=Unitless(metric="mae_original"))
    assert results["rows"][0]["status"] == "failed"
    assert "declare the unit" in (tmp_path / "out" / "report.html").read_text()
