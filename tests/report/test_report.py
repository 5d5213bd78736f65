import csv
import re
from pathlib import Path
from typing import Any

import pytest

from flowbench import report
from flowbench.reproduction.reproduce import reproduce
from tests.faked_runs import FakeTrainer


def row(**changes: Any) -> dict[str, Any]:
    published = [
        {"model": "Real NVP", "value": 3.49, "bound": "=", "split": "test", "lookback": None, "source": "Dinh"},
        {"model": "Real NVP", "value": 3.4, "bound": "=", "split": "train", "lookback": None, "source": "Dinh"},
        {"model": "Conv DRAW", "value": 3.59, "bound": "<", "split": "test", "lookback": None, "source": "Dinh"},
    ]
    return {
        **{"row": "CIFAR-10", "dataset": "cifar10", "experiment": "real_nvp/cifar10", "model": "real_nvp"},
        **{"metric": "bits_per_dim", "split": "test", "value": 3.61, "stderr": 0.01, "n": 10000, "seeds": [0]},
        **{"seed_std": None, "horizon": None, "lookback": None, "status": "done", "reason": None, "budget": "custom"},
        **{"badges": ["custom"], "runs": [], "published": published, "reproduces": "Real NVP", "note": None},
        **{"labels": {"levels": 256, "draws": 1}, "command": "flowbench reproduce real_nvp", "data_status": "verified"},
        **changes,
    }


def peer(**changes: Any) -> dict[str, Any]:
    """A figure of another library's model as results.json holds it."""
    return {
        **{"model": "DeepAR", "split": "test", "seeds": [0, 1], "values": [3.5, 3.6], "n": 12},
        **{"version": "GluonTS 0.16.2", "source": "peer_deepar.py", **changes},
    }


def results(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"schema": 1, "table": "mine", "title": "Mine", "description": "", "flowbench": "0", "rows": list(rows)}


def page(folder: Path, *rows: dict[str, Any]) -> str:
    return report.build(results(*rows), base=folder, out=folder).read_text()


def test_a_figure_stands_beside_the_published_ones_with_labels_and_difference(tmp_path: Path) -> None:
    text = page(tmp_path, row())
    for part in (
        "3.610 ± 0.010",
        "levels 256, draws 1",
        "3.49 (3.40)",
        "&lt; 3.59",
        "+0.120",
        "0.12 bits/dim above Real NVP&#39;s 3.49",
    ):
        assert part in text
    assert "paper&#39;s preset" not in text
    assert "paper&#39;s preset" in page(tmp_path, row(budget="paper", badges=[]))


def test_another_librarys_model_has_a_column_of_its_own_and_is_nothing_that_was_published(tmp_path: Path) -> None:
    beside = row(published=[], peers=[peer()])
    text = page(tmp_path, beside, row(row="B", published=[], peers=[peer(split="train")]))
    assert "measured here" in text
    assert "GluonTS 0.16.2, peer_deepar.py, seeds 0, 1" in text
    assert "no published figure" in text
    first, second = csv.DictReader((tmp_path / "table.csv").open())
    assert (first["DeepAR"], second["DeepAR"], first["difference"]) == ("3.550", "–", "")
    assert "3.550" in (tmp_path / "table.md").read_text()
    assert "measured here" not in page(tmp_path, row())
    assert "measured here" not in page(tmp_path, beside | {"peers": []})


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    nasty = row(experiment="<script>alert(1)</script>", row="<b>x</b>", note="<i>n</i>", badges=["<u>"])
    text = page(tmp_path, nasty, row(status="failed", value=None, reason="<img src=x>"))
    for tag in ("<script>alert", "<b>", "<i>", "<u>", "<img src=x"):
        assert tag not in text
        assert tag not in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(value=None, status="not_run", reason="not run yet", badges=[], stderr=None, n=None, labels={})],
        [row(metric="mae", value=0.4, stderr=None, horizon=96, lookback=336, seeds=[0, 1], seed_std=0.01)],
        [row(runs=["runs/lost"])],
    ],
)
def test_odd_tables_are_shown_too(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    text = page(tmp_path, *rows)
    assert "</html>" in text
    assert all(entry["experiment"] in text for entry in rows)


def test_the_table_has_the_spread_over_seeds_under_the_figure(tmp_path: Path) -> None:
    text = page(tmp_path, row(metric="mae", value=0.4, stderr=None, n=99, seeds=[0, 1], seed_std=0.01))
    badges = r'<span class="badges"><span class="badge plain" title="[^"]*">custom</span></span>'
    assert re.search(rf"0\.400</span>{badges}<small>test, n = 99; 2 seeds, sd 0\.010</small>", text)


def test_the_verdict_and_what_is_missing_are_said_once(tmp_path: Path) -> None:
    lost = [row(row=f"ROW {place}", status="skipped", value=None, reason="no such data") for place in range(3)]
    text = page(tmp_path, row(runs=["runs/lost"]), *lost)
    assert text.count("0.12 bits/dim above Real NVP&#39;s 3.49") == 1
    assert text.count("no such data") == 1
    assert all(f"<li>ROW {place}: real_nvp/cifar10</li>" in text for place in range(3))
    assert text.count('<code class="copy">flowbench reproduce real_nvp</code>') == 2


def test_a_table_without_published_figures_says_so_once(tmp_path: Path) -> None:
    text = page(tmp_path, row(published=[], reproduces=None), row(row="B", published=[], reproduces=None))
    assert "there are no published figures to stand beside them. Lower is better." in text
    assert "no published figure</span>" not in text
    assert ">Verdict<" not in text


def test_published_figures_of_few_rows_share_a_column(tmp_path: Path) -> None:
    text = page(tmp_path, row(), *(row(row=f"ROW {place}", published=[], reproduces=None) for place in range(3)))
    assert '<td data-label="Published"><span>Real NVP 3.49 (3.40), Conv DRAW &lt; 3.59</span></td>' in text
    assert '<td class="empty" data-label="Published"></td>' in text


@pytest.mark.pictures
def test_the_page_is_self_contained_small_and_shows_every_run(tmp_path: Path) -> None:
    results = reproduce("quick", out=tmp_path, trainer=FakeTrainer())
    text = (tmp_path / "report.html").read_text()
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", text)
    assert links
    assert all(link.startswith(("data:", "#")) or (tmp_path / link).exists() for pair in links for link in pair if link)
    assert text.count("data:image/svg+xml") == text.count("data:image/png") == len(results["rows"])
    assert text.count('href="#quick-digits-real-nvp-digits"') == 3
    assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", text))
    assert "A test&#39;s processor" in text
    assert "flowbench reproduce quick --only digits" in text
    assert len(text) < 1_000_000


@pytest.mark.pictures
def test_a_report_is_the_same_bytes_again(tmp_path: Path) -> None:
    stored = reproduce("quick", out=tmp_path, trainer=FakeTrainer())
    first = (tmp_path / "report.html").read_bytes()
    assert report.build(stored, base=tmp_path, out=tmp_path).read_bytes() == first


def forecast(**changes: Any) -> dict[str, Any]:
    return row(metric="mae", value=0.4216, stderr=None, published=[], reproduces=None, labels={}, horizon=96, **changes)


def test_the_mae_without_stuck_sensors_stands_beside_the_mae(tmp_path: Path) -> None:
    share = {"HULL": 0.5618, "LULL": 0.3031}
    text = page(tmp_path, forecast(mae_without_stuck=0.48651, constant_share=share, runs=["none"]))
    assert "horizon 96, without constant runs 0.487" in text
    assert "56 % of HULL, 30 % of LULL (test rows) keep one value over a day or more" in text
    assert "0.48651" in (tmp_path / "table.csv").read_text()
    assert "no window is without one" in page(tmp_path, forecast(constant_share={"a": 1.0}, runs=["none"]))
    plain = page(tmp_path, forecast(mae_without_stuck=None, constant_share={}, runs=["none"]))
    assert "constant runs" not in plain.lower()
    assert "mae_without_stuck" not in (tmp_path / "table.csv").read_text()


def test_a_mean_over_columns_of_unknown_units_is_shown_as_one(tmp_path: Path) -> None:
    assert "mean over columns" in page(tmp_path, {**forecast(), "metric": "mae_original"})
    assert "mean over columns" not in page(tmp_path, {**forecast(), "metric": "mae_original", "labels": {"unit": "kW"}})
