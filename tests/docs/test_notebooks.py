"""The notebooks are kept as they are typed: the build of the docs runs them, and fails where a cell does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "docs" / "notebooks"
NAMES = ["first-run", "forecasting", "own-images", "own-model", "tuning"]


class Loader(yaml.SafeLoader):
    """Reads `!ENV` as null."""


Loader.add_constructor("!ENV", lambda loader, node: None)


@pytest.fixture(scope="module")
def site() -> dict[str, Any]:
    return dict(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader))


def cells(name: str) -> list[dict[str, Any]]:
    return list(json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"])


def test_the_build_runs_every_notebook_anew_and_fails_with_it(site: dict[str, Any]) -> None:
    (settings,) = (plugin["mkdocs-jupyter"] for plugin in site["plugins"] if "mkdocs-jupyter" in plugin)
    assert (settings["execute"], settings["allow_errors"], settings["cache"]) == (True, False, False)
    (pages,) = (entry["Notebooks"] for entry in site["nav"] if "Notebooks" in entry)
    assert sorted(page for entry in pages for page in entry.values()) == [f"notebooks/{name}.ipynb" for name in NAMES]
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_without_what_it_printed(name: str) -> None:
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert len(code) > 4
    assert [cell["source"] for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_writes_into_a_folder_of_its_own(name: str) -> None:
    text = ["".join(cell["source"]) for cell in cells(name)]
    work = next(number for number, source in enumerate(text) if "os.chdir(folder.name)" in source)
    assert "tempfile.TemporaryDirectory()" in text[work]
    assert not any("runs/" in source for source in text[:work])


@pytest.mark.parametrize("name", NAMES)
def test_links_of_a_notebook_lead_somewhere(name: str) -> None:
    prose = ["".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "markdown"]
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", "\n".join(prose))
    assert links
    assert [link for link in links if not (NOTEBOOKS / link).is_file()] == []
