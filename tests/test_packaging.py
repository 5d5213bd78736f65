"""The package, as somebody installs it who has no checkout; what cites it, types it and documents it."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import flowbench

ROOT = Path(__file__).parent.parent


def test_the_citation_is_of_this_version_and_complete() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == flowbench.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    assert all({"type", "title", "authors"} <= reference.keys() for reference in citation["references"])


def test_the_reference_is_the_front_door_and_nothing_else() -> None:
    shown: dict[str, list[str]] = {}
    for line in (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("::: "):
            shown[line.removeprefix("::: flowbench.")] = []
        elif "members: [" in line:
            shown[list(shown)[-1]] = line.partition("[")[2].partition("]")[0].split(", ")
    assert sorted(shown) == sorted(flowbench.__all__)
    for name, members in shown.items():
        assert [member for member in members if not getattr(getattr(flowbench, name), member).__doc__] == []


@dataclass(frozen=True)
class Installed:
    """The wheel in an environment of its own, and a folder outside the checkout."""

    bin: Path
    site: Path
    folder: Path

    def run(self, *command: object) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"FLOWBENCH_TRACKING": "off", "OMP_NUM_THREADS": "1", "FLOWBENCH_OFFLINE": "1"}
        done = subprocess.run(list(map(str, command)), cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """What the wheel of the sdist installs."""
    tmp_path = tmp_path_factory.mktemp("wheel")
    dist, elsewhere = tmp_path / "dist", tmp_path / "elsewhere"
    quiet = {"check": True, "capture_output": True}
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(dist)], cwd=ROOT, **quiet)
    (sdist,) = dist.glob("flowbench-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert (source / "CITATION.cff").is_file()
    assert (source / "examples" / "sample.py").is_file()
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(dist)], cwd=source, **quiet)
    (wheel,) = dist.glob("flowbench-*.whl")

    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # The heavy dependencies are those of this environment, seen behind the wheel; the checkout is not among them.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", "--force-reinstall", "--ignore-installed", str(wheel)], **quiet)
    elsewhere.mkdir()
    return Installed(python.parent, site, elsewhere)


@pytest.mark.slow
def test_the_wheel_of_the_sdist_runs_the_quick_table_in_an_empty_environment(installed: Installed) -> None:
    run, command = installed.run, installed.bin / "flowbench"
    place = Path(run(installed.bin / "python", "-c", "import flowbench; print(flowbench.__file__)").strip())
    assert place == installed.site / "flowbench" / "__init__.py"
    assert (place.parent / "py.typed").is_file()
    assert run(command, "--version").strip() == f"flowbench {flowbench.__version__}"
    overrides = ["model.features=4", "train.steps=2", "evaluate.draws=1"]
    assert "bits_per_dim" in run(command, "train", "real_nvp/digits", *overrides)
    run(command, "reproduce", "quick", "--jobs", "2", "train.steps=0")
    assert "real_nvp/digits" in (installed.folder / "results" / "quick" / "report.html").read_text()


@pytest.mark.slow
def test_a_script_of_thirty_lines_goes_from_arrays_to_pages(installed: Installed) -> None:
    script = ROOT / "examples" / "own_data.py"
    lines = script.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 30
    imported = [line for line in lines if line.startswith(("import ", "from "))]
    assert imported == ["import numpy as np", "import pandas as pd", "import flowbench as fb"]
    said = installed.run(installed.bin / "python", "-I", script)
    assert re.search(r"^\d\.\d{3} ± 0\.\d{3} bits/dim of 200 images, own data$", said, re.M)
    assert "verdict: A is better than B" in said
    for folder in ("page", "page of the series"):
        assert "data:image/svg+xml" in (installed.folder / folder / "compare.html").read_text(encoding="utf-8")
    assert np.load(installed.folder / "samples.npy").shape == (16, 1, 8, 8)
    forecast = pd.read_csv(installed.folder / "next.csv", parse_dates=["date"])
    assert list(forecast["date"]) == list(pd.date_range("2024-03-24 08:00", periods=24, freq="h"))
    assert forecast["load_forecast"].between(-1.5, 1.5).all()
