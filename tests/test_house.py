"""The order of the house: what pyproject.toml lets lint-imports check is what CONTRIBUTING tells, and it is kept."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIRST_FLOOR = {"__init__.py", "__main__.py", "errors.py", "py.typed"}
LINT = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())"]


def floors() -> list[list[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if one["type"] == "layers"]
    assert contract["exhaustive"]
    return [[room.strip() for room in layer.split("|")] for layer in contract["layers"]]


def test_contributing_tells_the_floors_that_are_checked() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    assert [int(floor) for floor, _ in rows] == list(range(len(rows), 0, -1))
    assert [re.findall(r"`(\w+)`", rooms) for _, rooms in rows] == floors()


def test_on_the_first_floor_lie_the_rooms_and_nothing_else() -> None:
    here = {path.name for path in (ROOT / "flowbench").iterdir() if path.name != "__pycache__"}
    rooms = {room for floor in floors() for room in floor} - {"errors"}
    # An installed package carries the experiment files beside its rooms.
    assert here - {"experiments"} == FIRST_FLOOR | rooms


def test_tests_lie_in_rooms_of_the_same_names() -> None:
    rooms = {room for floor in floors() for room in floor}
    own = {"docs", "faults", "faults_planted"}
    assert {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")} <= rooms | own


@pytest.mark.parametrize(
    ("planted", "line"),
    [
        ("errors.py", "from flowbench.cli import app"),
        ("data/feed.py", "from flowbench.tracking import Mirror"),
        ("data/manifest.py", "from flowbench.data.images import open_images"),
        (None, ""),
    ],
    ids=["upwards", "sideways", "in a circle", "nothing"],
)
def test_an_import_against_the_order_is_noticed(tmp_path: Path, planted: str | None, line: str) -> None:
    shutil.copytree(ROOT / "flowbench", tmp_path / "flowbench", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    if planted is not None:
        path = tmp_path / "flowbench" / planted
        path.write_text(f"{line}\n{path.read_text()}")
    done = subprocess.run([*LINT, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if planted is None else 1), done.stdout
