"""The page that this project commits: it is what the kept files give, and it fits a shelf."""

import json
import re
import shutil
from pathlib import Path

import pytest

from flowbench.report import build_from
from flowbench.runs.folder import RunFolder
from flowbench.runs.kept import CURVE_POINTS

REPORTS = Path(__file__).parents[2] / "reports"
PARTS = ("quick", "families", "etth", "etth-densities", "cifar10", "throughput")
MOST_FILES, MOST_BYTES, MOST_PAGE_BYTES = 250, 8 * 2**20, 2_500_000
MOST_POINTS = 6000
"""Of a drawing that is committed."""


def rebuilt(out: Path) -> Path:
    """Build the page beside a copy of its parts: it has room for fewer pictures where its links are longer."""
    for part in PARTS:
        shutil.copytree(REPORTS / part, out / part)
    return build_from([str(out / part) for part in PARTS], out / "index.html")


def tables(page: Path) -> list[str]:
    found: list[str] = re.findall(r"<table.*?</table>", page.read_text(encoding="utf-8"), re.DOTALL)
    return found


@pytest.mark.usefixtures("data_folder")
def test_the_kept_files_give_the_committed_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = rebuilt(tmp_path)
    hint = f"flowbench report {' '.join(f'reports/{part}' for part in PARTS)} --out reports/index.html"
    assert len(tables(page)) == 7
    assert tables(page) == tables(REPORTS / "index.html"), hint
    names = sorted(path.name for path in (tmp_path / "tables").iterdir())
    assert names == sorted(path.name for path in (REPORTS / "tables").iterdir())
    for name in names:
        assert (tmp_path / "tables" / name).read_text() == (REPORTS / "tables" / name).read_text(), hint


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.usefixtures("data_folder")
def test_the_kept_files_give_the_committed_page_with_its_pictures(tmp_path: Path) -> None:
    words = [
        re.findall(r"<figcaption>([^<]*)", page.read_text()) for page in (rebuilt(tmp_path), REPORTS / "index.html")
    ]
    assert words[0] == words[1]


def test_the_reports_fit_a_shelf() -> None:
    files = [path for path in REPORTS.rglob("*") if path.is_file()]
    assert len(files) <= MOST_FILES
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert (REPORTS / "index.html").stat().st_size <= MOST_PAGE_BYTES
    assert {path.suffix for path in files} <= {".html", ".md", ".csv", ".tex", ".json", ".jsonl", ".webp", ".svg"}
    for drawing in REPORTS.rglob("*.svg"):
        points = sum(len(re.findall("[MLlC]", data)) for data in re.findall(r' d="([^"]*)"', drawing.read_text()))
        assert points <= MOST_POINTS, drawing


def test_what_is_kept_is_what_the_page_shows() -> None:
    text = (REPORTS / "index.html").read_text(encoding="utf-8")
    links = {link for link in re.findall(r'href="([^"]*)"', text) if not link.startswith(("data:", "#"))}
    assert [link for link in sorted(links) if not (REPORTS / link).exists()] == []
    pictures = {path.relative_to(REPORTS).as_posix() for path in REPORTS.glob("*/figures/*/*")}
    assert pictures == {link for link in links if "/figures/" in link}
    runs = re.findall(r'href="([^"]*)/runs\.jsonl">(runs/[^<]*)<', text)
    assert len(runs) > 200
    for folder, name in runs:
        run = RunFolder(REPORTS / folder / name)
        assert run.finished
        assert len(run.metrics()) <= CURVE_POINTS


def test_the_readmes_figures_are_those_that_its_command_gives() -> None:
    """Of seed 0, which the command trains, and as the command rounds them."""
    kept = [json.loads(line) for line in (REPORTS / "quick" / "runs.jsonl").read_text().splitlines()]
    results = [run["result"] for run in kept if "result" in run and run["result"]["seed"] == 0]
    given = {
        result["experiment"]: f"{metric['value']:.3f} ± {metric['stderr']:.3f} bits/dim"
        for result in results
        if (metric := result["metrics"]["test"].get("bits_per_dim"))
    }
    text = (REPORTS.parent / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"\| digits \| (\S+) \| test \| ([^|]*?) \|", text))
    assert len(told) == 4
    assert told == given
