import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowbench.comparison.compared_runs import compare_runs
from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.report import build_from, keep
from flowbench.reproduction.reproduce import reproduce
from flowbench.runs.folder import RunFolder, find_run
from flowbench.runs.kept import CURVE_POINTS
from tests.faked_runs import FakeTrainer
from tests.report.test_throughput_section import stored


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "quick"
    reproduce("quick", only=["digits"], seeds=[3, 1], out=folder, trainer=FakeTrainer())
    return folder


@pytest.fixture
def table(trained: Path, tmp_path: Path) -> Path:
    """The rows of the digits, two seeds each, by a trainer that gives figures at once."""
    return Path(shutil.copytree(trained, tmp_path / "quick"))


def rows(folder: Path) -> list[dict[str, object]]:
    content: list[dict[str, object]] = json.loads((folder / "results.json").read_text())["rows"]
    return content


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_kept_is_few_files_without_weights_and_gives_the_same_tables(table: Path, tmp_path: Path) -> None:
    runs = list((table / "runs").iterdir())
    for run in runs:
        (run / "checkpoint.pt").write_bytes(b"weights")
        (run / "figures" / "broken.png").write_bytes(bytes(500_000))
    before = build_from([str(table)], tmp_path / "a")
    kept = tmp_path / "repository" / "quick"
    assert keep([str(table)], kept) == [kept / "results.json"]
    shown = {f"figures/{run.name}/samples.webp" for run in runs if run.name.endswith("seed3")}
    names = shown | {"results.json", "runs.jsonl"}
    assert files(kept) == names
    assert rows(kept) == rows(table)
    after = build_from([str(kept)], tmp_path / "b")
    for name in ("table.csv", "table.md", "table.tex"):
        assert (after.parent / name).read_text() == (before.parent / name).read_text()
    # The broken ones stay behind; all else is there, and every link leads somewhere.
    assert before.read_text().count("<img") == after.read_text().count("<img") + len(shown)
    links = re.findall(r'href="([^#"]+)"', after.read_text())
    assert [link for link in links if not (link.startswith("data:") or (after.parent / link).exists())] == []
    # Again, from itself: nothing is lost, and nothing changes.
    content = {name: (kept / name).read_bytes() for name in names}
    keep([str(kept)], kept)
    assert {name: (kept / name).read_bytes() for name in files(kept)} == content


def test_a_kept_run_reads_as_its_folder_did(table: Path, tmp_path: Path) -> None:
    keep([str(table)], tmp_path / "kept")
    runs = list((table / "runs").glob("glow*"))
    for folder in runs:
        run, kept = RunFolder(folder), find_run(str(tmp_path / "kept" / "runs" / folder.name))
        assert kept.exists
        assert kept.finished
        assert kept.experiment == run.experiment
        assert kept.environment == run.environment
        assert kept.result == run.result
        assert len(kept.metrics()) <= CURVE_POINTS
        with pytest.raises(InputError, match="kept without its weights"):
            kept.load_checkpoint()
    assert not RunFolder(tmp_path / "kept" / "runs" / "another").finished
    one, other = (str(path) for path in sorted((tmp_path / "kept" / "runs" / run.name) for run in runs)[:2])
    with pytest.raises(InputError, match="kept without its values for each item"):
        compare_runs(one, other)


def test_values_by_step_and_column_stay_behind(tmp_path: Path) -> None:
    run = tmp_path / "mine"
    FakeTrainer()(load_experiment("etth/nlinear"), run)
    result = RunFolder(run).result
    result["metrics"]["test"]["mae"] |= {"per_step": [0.1] * 96, "per_column": {"OT": 0.3}}
    (run / "result.json").write_text(json.dumps(result))
    keep([str(run)], tmp_path / "kept")
    (row,) = rows(tmp_path / "kept")
    kept = RunFolder(tmp_path / "kept" / str(row["runs"][0])).result  # type: ignore[index]
    assert {*result["metrics"]["test"]["mae"]} - {*kept["metrics"]["test"]["mae"]} == {"per_step", "per_column"}
    assert kept["metrics"]["test"]["mae"]["value"] == result["metrics"]["test"]["mae"]["value"]


def test_rows_that_are_run_again_take_the_place_of_the_kept_ones_and_the_others_stay(
    table: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    keep([str(table)], kept)
    before = rows(kept)
    again = tmp_path / "again"
    trainer = FakeTrainer({("real_nvp/digits", 5): 1.5, ("glow/digits", 5): InputError("no")})
    reproduce("quick", only=["digits"], seeds=[5], out=again, trainer=trainer)
    keep([str(again)], kept)
    after = {str(row["experiment"]): row for row in rows(kept) if row["row"] == "digits"}
    assert (after["real_nvp/digits"]["value"], after["real_nvp/digits"]["seeds"]) == (1.5, [5])
    # What could not be run is no reason to lose a figure.
    assert after["glow/digits"] == next(row for row in before if row["experiment"] == "glow/digits")
    named = {str(run) for row in rows(kept) for run in row["runs"]}  # type: ignore[attr-defined]
    assert all(RunFolder(kept / run).finished for run in named)
    firsts = {str(row["runs"][0]) for row in rows(kept) if row["runs"]}  # type: ignore[index]
    assert {f"runs/{path.name}" for path in (kept / "figures").iterdir()} == firsts  # those of old runs are gone
    lines = [json.loads(line) for line in (kept / "runs.jsonl").read_text().splitlines()]
    assert [f"runs/{line['run']}" for line in lines if "run" in line] == sorted(named)


def test_a_row_of_a_run_that_lies_nowhere_is_not_kept(table: Path, tmp_path: Path) -> None:
    lost = next(table.glob("runs/glow*"))
    (lost / "result.json").unlink()
    with pytest.raises(InputError, match=rf"{lost.name}: there is no finished run there, and .*kept keeps none"):
        keep([str(table)], tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_small_evaluation_is_labelled_in_its_row_and_not_kept(tmp_path: Path) -> None:
    reproduce("quick", only=["digits"], out=tmp_path / "quick", trainer=FakeTrainer(limited="9 of 360"))
    row = rows(tmp_path / "quick")[0]
    assert row["badges"] == ["limited", "quick"]
    assert row["labels"]["limited"] == "9 of 360"  # type: ignore[index]
    with pytest.raises(InputError, match=r"a small evaluation \(9 of 360\), which is not kept"):
        keep([str(tmp_path / "quick")], tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_only_the_first_seeds_pictures_are_kept_and_large_ones_are_shrunk(table: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 700, 3), dtype=np.uint8)
    for folder in (table / "runs").glob("glow*"):
        Image.fromarray(noise).save(folder / "figures" / "noise.png")
    keep([str(table)], tmp_path / "kept")
    pictures = list((tmp_path / "kept").glob("figures/*/*"))
    assert {path.parent.name.rpartition("seed")[2] for path in pictures} == {"3"}
    assert {path.name for path in pictures} == {"samples.webp", "noise.webp"}
    assert max(path.stat().st_size for path in pictures) < 200_000


def test_single_runs_join_those_that_are_kept_and_name_a_command_for_any_machine(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    first, second = tmp_path / "runs" / "real_nvp" / "mine", tmp_path / "other" / "yours"
    FakeTrainer()(load_experiment("real_nvp/digits"), first)
    FakeTrainer()(load_experiment("real_nvp/digits", ["model.features=16", "seed=3"]), second)
    assert keep([str(first)], kept) == [kept / "results.json"]
    assert [row["runs"] for row in rows(kept)] == [["runs/real_nvp-mine"]]
    assert rows(kept)[0]["command"] == "flowbench train real_nvp/digits"
    keep([str(second)], kept)
    assert [row["runs"] for row in rows(kept)] == [["runs/real_nvp-mine"], ["runs/other-yours"]]
    assert rows(kept)[1]["command"] == "flowbench train real_nvp/digits seed=3 model.features=16"
    # A run that a clock ended is made again by the same clock.
    (first / "result.json").write_text(json.dumps(RunFolder(first).result | {"time_budget": 480.0}))
    keep([str(first)], kept)
    commands = {row["runs"][0]: row["command"] for row in rows(kept)}  # type: ignore[index]
    assert commands["runs/real_nvp-mine"] == "flowbench train real_nvp/digits --time-budget 480s"
    assert len(commands) == 2


def test_throughput_is_copied(tmp_path: Path) -> None:
    stored(tmp_path / "measured" / "cpu" / "0.json", "ab")
    out = tmp_path / "kept"
    assert keep([str(tmp_path / "measured")], out) == [out / "cpu" / "0.json"]


def test_what_would_be_mixed_or_hidden_is_refused_in_one_line(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one results folder"):
        keep([str(table), str(table.parent / "quick")], tmp_path / "out")
    with pytest.raises(InputError, match="no run 'nowhere'"):
        keep(["nowhere"], tmp_path / "out")
    with pytest.raises(InputError, match=r"quick: has run folders.*give another --out"):
        keep([str(table)], table)
    FakeTrainer()(load_experiment("real_nvp/cifar10"), tmp_path / "mine")
    keep([str(table)], tmp_path / "kept")
    with pytest.raises(InputError, match="holds the table quick, not runs-on-cifar10"):
        keep([str(tmp_path / "mine")], tmp_path / "kept")


def test_a_table_goes_on_from_what_is_kept(table: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    keep([str(table)], kept)
    trainer = FakeTrainer()
    results = reproduce("quick", only=["digits"], seeds=[3, 1], out=kept, trainer=trainer)
    assert trainer.calls == []
    assert [row["value"] for row in results["rows"]] == [row["value"] for row in rows(table)]


def test_a_damaged_table_is_kept_nowhere_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "results.json").write_text('{"schema": 1, "table": "x", "rows": [{"row": "a"}]}')
    with pytest.raises(InputError, match=r"results\.json: not a results file of flowbench reproduce \(KeyError\)"):
        keep([str(tmp_path / "bad")], tmp_path / "kept")
