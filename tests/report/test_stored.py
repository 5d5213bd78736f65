import csv
import json
from pathlib import Path

import pytest

from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.report import build_from
from flowbench.report.keeping import keep
from flowbench.reproduction.reproduce import reproduce
from flowbench.tables.bounds import write_bounds
from tests.faked_runs import FakeTrainer
from tests.report.test_throughput_section import stored


@pytest.fixture
def table(tmp_path: Path) -> Path:
    reproduce("quick", only=["digits"], out=tmp_path / "quick", trainer=FakeTrainer())
    return tmp_path / "quick"


def test_one_page_of_a_table_runs_and_throughput(table: Path, tmp_path: Path) -> None:
    run = tmp_path / "mine"
    FakeTrainer(budget="custom")(load_experiment("real_nvp/digits", ["train.steps=200"]), run)
    page = build_from([str(table), str(run), str(stored(tmp_path / "t.json", "ab"))], tmp_path / "out" / "index.html")
    text = page.read_text()
    for name in ("quick", "runs-on-digits", "throughput"):
        assert f'<section id="{name}"' in text
        assert f'href="#{name}"' in text
    assert {path.suffix for path in (tmp_path / "out" / "tables").iterdir()} == {".csv", ".md", ".tex"}
    assert "trained 200 of 800 steps" in text


def test_a_run_of_a_tables_experiment_stands_beside_its_published_figure(tmp_path: Path) -> None:
    run = tmp_path / "mine"
    FakeTrainer({("real_nvp/cifar10", 0): 4.0}, budget="custom")(load_experiment("real_nvp/cifar10"), run)
    text = build_from([str(run)], tmp_path / "out").read_text()
    assert "0.51 bits/dim above Real NVP&#39;s 3.49" in text


def test_several_runs_are_compared_by_what_differs_best_first(tmp_path: Path) -> None:
    for features, value in ((16, 2.2), (32, 1.9), (64, 2.0)):
        experiment = load_experiment("real_nvp/digits", [f"model.features={features}", f"seed={features}"])
        FakeTrainer({("real_nvp/digits", features): value})(experiment, tmp_path / f"run{features}")
    page = build_from([str(tmp_path / f"run{features}") for features in (16, 32, 64)], tmp_path / "out")
    with (page.parent / "tables" / "runs-settings.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["model.features"] for line in lines] == ["32", "64", "16"]
    assert [float(line["bits/dim"]) for line in lines] == [1.9, 2.0, 2.2]
    assert set(lines[0]) == {"Run", "bits/dim", "seed", "model.features", "Parameters", "Training, images/s"}
    assert "What differs between these runs" in page.read_text()


def test_unknown_sources_are_one_line(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run 'nowhere'"):
        build_from(["nowhere"], tmp_path / "out")
    (tmp_path / "all" / "quick").mkdir(parents=True)
    (tmp_path / "all" / "quick" / "results.json").write_text("{}")
    with pytest.raises(InputError, match=r"all: holds results of tables, each in a folder: name .*all/quick"):
        build_from([str(tmp_path / "all")], tmp_path / "out")
    with pytest.raises(InputError, match=r"nowhere: no results\.json and no throughput file"):
        build_from(["nowhere"], tmp_path / "out")
    (table / "results.json").write_text('{"rows": 3}')
    with pytest.raises(InputError, match=r"results\.json: not a results file"):
        build_from([str(table)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_of_another_schema_are_refused_by_all_that_read_them(table: Path, tmp_path: Path) -> None:
    path = table / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2}))
    for read in (
        lambda: build_from([str(table)], tmp_path / "out"),
        lambda: keep([str(table)], tmp_path / "kept"),
        lambda: write_bounds(table),
    ):
        with pytest.raises(InputError, match=r"results\.json: schema 2, but this version of flowbench reads 1: "):
            read()
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"numerics": {"model": 0, "data": 1}}, "computes differently today"),
        ({"data_fingerprint": "0" * 64}, "has another fingerprint today"),
        ({"config_sha256": "0" * 64}, "config is another one today"),
        ({"metrics": {"test": {"bits_per_dim": {"value": 1.0, "stderr": 0.1, "n": 3}}}}, "its runs have other figures"),
        ({"metrics": {}}, "its runs have other figures"),
    ],
)
def test_stored_results_that_their_runs_no_longer_bear_out_are_marked(
    table: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    assert "stale" not in build_from([str(table)], tmp_path / "before").read_text()
    path = next(table.glob("runs/real_nvp*/result.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    page = build_from([str(table)], tmp_path / "after").read_text()
    assert "stale" in page
    assert words in page + (tmp_path / "after" / "table.csv").read_text()


HOSTILE = "<script>alert(1)</script>"


def test_hostile_names_are_text_in_the_page_and_in_the_tables(table: Path, tmp_path: Path) -> None:
    stored_file = table / "results.json"
    results = json.loads(stored_file.read_text())
    for row in results["rows"]:
        row |= {"row": HOSTILE, "experiment": f"=cmd|' /C calc'!A0{HOSTILE}", "reason": HOSTILE, "note": HOSTILE}
        row |= {"dataset": "@SUM(1+9)", "model": "+1", "badges": [*row["badges"], HOSTILE], "command": HOSTILE}
    results["title"] = results["description"] = HOSTILE
    stored_file.write_text(json.dumps(results))
    for name in ("config.yaml", "environment.json", "result.json"):
        for path in table.glob(f"runs/*/{name}"):
            path.write_text(path.read_text().replace("digits", HOSTILE))
    page = build_from([str(table)], tmp_path / "out").read_text()
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    written = (tmp_path / "out" / "table.csv").read_text()
    cells = [cell for line in csv.reader(written.splitlines()) for cell in line]
    assert any("cmd|" in cell for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t"))]
    assert HOSTILE not in (tmp_path / "out" / "table.md").read_text()
