import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from flowbench.config.experiments import load_experiment
from flowbench.config.registry import image_sets
from flowbench.config.schema import ForecastData
from flowbench.errors import InputError
from flowbench.tables.table import Published, Table, load_table, readable_tables, table_names

MINE = {
    "table": "mine",
    "title": "Mine",
    "description": "A table.",
    "rows": [
        {
            "row": "digits",
            "dataset": "digits",
            "metric": "bits_per_dim",
            "split": "test",
            "experiments": ["real_nvp/digits", {"name": "independent/digits", "seeds": [0, 1], "reproduces": "X"}],
            "published": [{"model": "X", "value": 2, "split": "test", "source": "A 2020, Table 1"}],
        }
    ],
}


PEER: dict[str, object] = {"model": "DeepAR", "split": "test", "seeds": [0, 1], "values": [1, 2.5], "n": 9} | {
    "version": "GluonTS 0.16.2", "source": "a script"
}  # fmt: skip


def written(folder: Path, change: dict[str, object] | None = None, row: dict[str, object] | None = None) -> str:
    content = {**MINE, "rows": [{**MINE["rows"][0], **(row or {})}], **(change or {})}  # type: ignore[index, dict-item]
    path = folder / "mine.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML
    return str(path)


def test_a_table_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    row = load_table(written(tmp_path)).rows[0]
    assert [entry.name for entry in row.experiments] == ["real_nvp/digits", "independent/digits"]
    assert row.experiments[1].seeds == (0, 1)
    assert (row.published[0].value, row.published[0].bound) == (2.0, "=")
    assert row.peers == ()
    (peer,) = load_table(written(tmp_path, row={"peers": [PEER]})).rows[0].peers
    assert (peer.values, peer.seeds) == ((1.0, 2.5), (0, 1))


@pytest.mark.parametrize(
    ("change", "row", "words"),
    [
        ({"titel": "x"}, {}, ["mine.yaml", "titel", "did you mean title?"]),
        ({}, {"datset": "x"}, ["rows.0.datset", "did you mean dataset?"]),
        ({}, {"published": [{"modle": "X"}]}, ["rows.0.published.0.modle", "did you mean model?"]),
        ({}, {"peers": [PEER | {"values": [1.0]}]}, ["rows.0.peers.0", "DeepAR", "1 values of 2 seeds"]),
        ({}, {"metric": "accuracy"}, ["rows.0.metric", "accuracy"]),
        ({}, {"row": "CIFAR‑10"}, ["rows.0.row", "CIFAR‑10"]),
        ({}, {"published": []}, ["reproduces", "X"]),
        ({}, {"experiments": ["a/b", "a/b"]}, ["twice"]),
        ({}, {"experiments": []}, ["rows.0.experiments"]),
        ({"table": "other"}, {}, ["table", "other", "mine"]),
        ({"rows": [MINE["rows"][0], MINE["rows"][0]]}, {}, ["digits", "twice"]),  # type: ignore[index]
    ],
)
def test_what_is_wrong_in_a_table_file_is_named(
    tmp_path: Path, change: dict[str, object], row: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        load_table(written(tmp_path, change, row))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", table_names())
def test_every_shipped_table_is_valid_and_names_existing_experiments_of_its_data_sets(name: str) -> None:
    for row in load_table(name).rows:
        for entry in row.experiments:
            data = load_experiment(entry.name, entry.overrides).data
            # A cross row is one of the set that is tested on.
            assert (data.tested if isinstance(data, ForecastData) else data).name == row.dataset


def test_the_paper_s_table_holds_its_figures() -> None:
    table = load_table("real_nvp")
    figures = {(row.row, p.model, p.split): f"{p.bound}{p.value:.2f}" for row in table.rows for p in row.published}
    assert [row.row for row in table.rows] == [
        "CIFAR-10",
        "ImageNet 32x32",
        "ImageNet 64x64",
        "LSUN bedroom",
        "LSUN tower",
        "LSUN church outdoor",
        "CelebA",
    ]
    assert figures["CIFAR-10", "Real NVP", "test"] == "=3.49"
    assert figures["CIFAR-10", "IAF-VAE", "test"] == "<3.28"
    assert figures["ImageNet 64x64", "Conv DRAW", "train"] == "<4.04"
    assert figures["LSUN church outdoor", "Real NVP", "train"] == "=2.94"
    # Later, and not of that table:
    assert figures.pop(("CIFAR-10", "PixelCNN++", "test")) == "=2.92"
    assert figures.pop(("CIFAR-10", "IAF-VAE, 20 layers", "test")) == "<3.15"
    assert figures.pop(("CIFAR-10", "IAF-VAE, 20 layers, importance-weighted", "test")) == "<3.11"
    assert len(figures) == 24


def test_glow_s_table_holds_both_papers_figures_and_both_models_of_ours() -> None:
    rows = load_table("glow").rows
    figures = {row.dataset: {p.model: (p.value, p.bound, p.split) for p in row.published} for row in rows}
    assert figures == {
        "cifar10": {"Glow": (3.35, "=", "test"), "Real NVP": (3.49, "=", "test")},
        "imagenet32": {"Glow": (4.09, "=", "validation"), "Real NVP": (4.28, "=", "validation")},
        "imagenet64": {"Glow": (3.81, "=", "validation"), "Real NVP": (3.98, "=", "validation")},
        "lsun-bedroom": {"Glow": (2.38, "=", "validation"), "Real NVP": (2.72, "=", "validation")},
        "lsun-tower": {"Glow": (2.46, "=", "validation"), "Real NVP": (2.81, "=", "validation")},
        "lsun-church_outdoor": {"Glow": (2.67, "=", "validation"), "Real NVP": (3.08, "=", "validation")},
    }
    for row in rows:
        ours = {entry.name: entry.reproduces for entry in row.experiments}
        assert ours == {f"glow/{row.dataset}": "Glow", f"real_nvp/{row.dataset}": "Real NVP"}
        assert row.split == image_sets[row.dataset].report_split


def test_only_takes_titles_and_data_sets_in_any_case() -> None:
    table = load_table("real_nvp")
    assert [row.row for row in table.select(["cifar-10", "LSUN-TOWER"])] == ["CIFAR-10", "LSUN tower"]
    assert table.select([]) == list(table.rows)
    with pytest.raises(InputError, match="did you mean CIFAR-10"):
        table.select(["CIFAR-100"])


def test_an_unknown_table_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean quick"):
        load_table("quik")


def test_tables_are_frozen() -> None:
    table = load_table("quick")
    assert isinstance(table, Table)
    with pytest.raises(ValueError, match="frozen"):
        table.title = "other"  # type: ignore[misc]


def test_a_table_that_cannot_be_read_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = [table.table for table in readable_tables()]
    (tmp_path / "experiments" / "tables").mkdir(parents=True)
    (tmp_path / "experiments" / "tables" / "broken.yaml").write_text("table: broken\n")
    assert "broken" in table_names()
    assert [table.table for table in readable_tables()] == known


def test_a_published_likelihood_may_lie_below_zero() -> None:
    assert Published(model="a", value=-0.245, split="test", source="b").value == -0.245
    with pytest.raises(ValidationError):
        Published(model="a", value=float("nan"), split="test", source="b")
