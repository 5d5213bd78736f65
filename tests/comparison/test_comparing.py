"""Pages of comparisons, from real folders: runs by pattern, and a study with pruned trials."""

import csv
import re
from pathlib import Path

import pytest

from flowbench.comparison import compare_many, compare_study
from flowbench.comparison.cost import flops_of
from flowbench.comparison.entries import runs_like
from flowbench.comparison.plots import PLOTS, WHY_ABSENT
from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.runs.folder import RUNS
from tests.faked_runs import FakeTrainer
from tests.studies import Formula, Lab


def trained(values: dict[int, tuple[float, ...]]) -> None:
    """Leave runs of real_nvp/digits behind: bits/dim by feature maps and seed."""
    for features, figures in values.items():
        for seed, value in enumerate(figures):
            one = load_experiment("real_nvp/digits", [f"model.features={features}", f"seed={seed}"])
            FakeTrainer({(one.name, seed): value})(one, RUNS / one.name / f"{features}-{seed}")


def lines(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "compare.csv").open()))


@pytest.mark.pictures
def test_runs_by_pattern_best_first_with_what_differs_and_ties(lab: Lab) -> None:
    trained({8: (2.10, 2.12, 2.11), 16: (2.02, 2.00, 2.01), 32: (2.01, 2.00, 2.02), 64: (2.00,)})
    page, words = compare_many(runs_like("real_nvp/*"), Path("out"))
    text = page.read_text()
    assert "2.0100 ± 0.0100" in text
    assert not re.search(r"(src|href)=\"https?:", text)
    found = lines(Path("out"))
    assert [line["model.features"] for line in found[:1]] == ["64"]
    assert {line["verdict"] for line in found if line["model.features"] in ("16", "32")} == {"tie"}
    assert {line["verdict"] for line in found if line["model.features"] == "8"} == {"worse"}
    assert "optim.lr" not in found[0]
    assert words[0].startswith("best bits/dim on test: 2.0000")
    assert any("2 of 3 others are tied" in word for word in words)


def test_runs_that_cannot_be_compared_are_refused(lab: Lab) -> None:
    with pytest.raises(InputError, match="no finished runs"):
        runs_like("real_nvp/*")
    trained({8: (2.0,), 16: (2.1,)})
    with pytest.raises(InputError, match="no finished run of such an experiment"):
        runs_like("glow/*")
    with pytest.raises(InputError, match="name at least two"):
        compare_many([str(RUNS / "real_nvp/digits/8-0")], Path("out"))
    result = RUNS / "real_nvp/digits/8-0/result.json"
    result.write_text(result.read_text().replace('"dataset": "digits"', '"dataset": "cifar10"'))
    with pytest.raises(InputError, match="different datasets: cifar10, digits"):
        compare_many(runs_like("*"), Path("out"))


@pytest.mark.pictures
def test_a_study_shows_what_was_pruned_and_failed_with_reasons(lab: Lab, formula: Formula) -> None:
    outcome = lab.tune(12, "study.sampler=grid")
    assert outcome.page == outcome.folder / "compare.html"
    assert any("best bits/dim on holdout" in line for line in outcome.recommendation)
    page, _ = compare_study(lab.study(), Path("out"))
    text = page.read_text()
    assert text.count(": pruned</dt>") == outcome.pruned
    assert "bits_per_dim" in text
    assert "at step" in text
    found = lines(Path("out"))
    assert len(found) == outcome.complete
    assert float(found[0]["value"]) == min(float(line["value"]) for line in found)
    assert f'<code class="copy">flowbench train {outcome.experiment_file}</code>' in text
    facts = ["<dt>Data set</dt><dd>digits", "<dt>Sampler</dt><dd>grid, seed 0</dd>", "<dt>Pruner</dt>"]
    facts += ["<dt>Budget of a trial</dt>", "<dt>Trials</dt><dd>", f"{outcome.complete} complete"]
    assert [fact for fact in facts if fact not in text] == []
    links = re.findall(r'href="(\.\./runs/[^"]*)"', text)
    assert len(links) >= outcome.complete + outcome.pruned
    assert all((Path("out") / link / "config.yaml").is_file() for link in links)
    drawn = {path.stem for path in Path("out/plots").glob("*.svg")}
    absent = {name for name, why in WHY_ABSENT.items() if f"<li>{why}</li>" in text.replace("&#39;", "'")}
    assert drawn | absent == set(PLOTS)
    assert not drawn & absent
    assert {"curves.svg", "cost.svg"} <= {path.name for path in Path("out/plots").iterdir()}


def test_operations_grow_with_the_model_and_are_counted_without_data(lab: Lab) -> None:
    data = {"shape": [1, 8, 8], "levels": 17}
    small, large = (
        flops_of(load_experiment("real_nvp/digits", [f"model.features={features}"]), data) for features in (8, 16)
    )
    assert small is not None
    assert large is not None
    assert 3 < large / small < 4
    assert flops_of(load_experiment("real_nvp/digits"), {}) is None
    series = {"inputs": ["OT"], "targets": ["OT"], "rows_per_day": 24}
    # 336 → 96 values by one matrix, 2 operations for a multiply-add.
    assert flops_of(load_experiment("etth/linear", ["data.features=S"]), series) == 2 * 336 * 96
