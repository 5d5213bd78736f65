"""The package, as somebody installs it who has no checkout; what cites it, types it and documents it."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest
import yaml

import flowbench

ROOT = Path(__file__).parent.parent


def test_the_citation_is_of_this_version_and_complete() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == flowbench.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    assert all({"type", "title", "authors"} <= reference.keys() for reference in citation["references"])


def test_every_name_in_the_reference_exists() -> None:
    import pkgutil

    module = None
    for line in (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("::: "):
            module = pkgutil.resolve_name(line.removeprefix("::: "))
        elif "members:" in line:
            names = line.partition("[")[2].partition("]")[0].split(", ")
            assert module is not None
            assert [name for name in names if not getattr(module, name).__doc__] == []


@pytest.mark.slow
def test_the_wheel_of_the_sdist_runs_the_quick_table_in_an_empty_environment(tmp_path: Path) -> None:
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
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"FLOWBENCH_TRACKING": "off", "OMP_NUM_THREADS": "1", "FLOWBENCH_OFFLINE": "1"}

    def run(*command: object) -> str:
        done = subprocess.run(list(map(str, command)), cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = Path(run(python, "-c", "import flowbench; print(flowbench.__file__)").strip())
    assert place == site / "flowbench" / "__init__.py"
    assert (place.parent / "py.typed").is_file()
    command = tmp_path / "venv" / "bin" / "flowbench"
    assert run(command, "--version").strip() == f"flowbench {flowbench.__version__}"
    overrides = ["model.features=4", "train.steps=2", "evaluate.draws=1"]
    assert "bits_per_dim" in run(command, "train", "real_nvp/digits", *overrides)
    run(command, "reproduce", "quick", "--jobs", "2", "train.steps=0")
    assert "real_nvp/digits" in (elsewhere / "results" / "quick" / "report.html").read_text()
