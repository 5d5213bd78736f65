"""Fixtures for all tests."""

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flowbench.config.registry import series_sets
from flowbench.data import image_set
from tests.few_pictures import leave_out_pictures

LONG_FILES = ("test_together.py", "test_chaos.py", "test_processes.py", "test_blocks.py")
"""Slow ones. One process runs a file: one of minutes, started last, would leave the others with nothing to do."""


def pytest_configure() -> None:
    """Give each process one thread: two processes of two threads on two cores are ten times slower."""
    torch.set_num_threads(1)
    # A shell ignores Ctrl-C for what it starts in the background, and so would all that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests start
    # Each mirror is a process that imports MLflow: the tests of tracking ask for it.
    os.environ["FLOWBENCH_TRACKING"] = "off"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, whatever the order of the others."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


def pytest_collection_finish() -> None:
    """Tell the garbage collector to leave alone what was imported and collected: it would walk through it for ever."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def few_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes seconds to draw, but for tests marked `pictures`."""
    if not request.node.get_closest_marker("pictures"):
        leave_out_pictures(monkeypatch.setattr)


@pytest.fixture
def require_data() -> Callable[[str], Path]:
    """Return a function of a set's name that gives its prepared folder under FLOWBENCH_DATA.

    Where the set is missing the test is skipped with a reason, or fails if FLOWBENCH_REQUIRE_DATA=1.
    """
    root = image_set.data_root()

    def require(name: str) -> Path:
        folder = root / name
        wanted = folder / (series_sets[name].file if name in series_sets else "manifest.json")
        if not wanted.is_file():
            reason = f"{name} is not prepared in {root}: run `flowbench data prepare {name} --source PATH`"
            if os.environ.get("FLOWBENCH_REQUIRE_DATA") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        return folder

    return require


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty data root of the test's own, with FLOWBENCH_DATA set to it."""
    folder = tmp_path / "flowbench-data"
    monkeypatch.setenv("FLOWBENCH_DATA", str(folder))
    monkeypatch.setenv("FLOWBENCH_OFFLINE", "1")
    return folder
