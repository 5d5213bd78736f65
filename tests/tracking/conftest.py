"""One shared SQLite store, and a run folder to track."""

import shutil
from pathlib import Path

import pytest

from flowbench.tracking.store import open_client, patience
from tests.tracking.tracked_runs import FakeRun, Holdings


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an SQLite store without runs, to be copied: making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    with patience(10, 0):
        open_client(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def store(empty_store: Path) -> str:
    """The URI of one SQLite store for all tests."""
    return f"sqlite:///{shutil.copyfile(empty_store, empty_store.with_name('mlflow.db'))}"


@pytest.fixture
def holdings(store: str) -> Holdings:
    return Holdings(store)


@pytest.fixture(autouse=True)
def tracked(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Track into the shared store, from a working folder of the test's own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.delenv("FLOWBENCH_TRACKING", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    """A run without rows, of an experiment of the test's own."""
    return FakeRun(tmp_path / "runs" / "run-1", f"real_nvp/{tmp_path.name}")
