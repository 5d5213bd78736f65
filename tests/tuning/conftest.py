"""An empty folder to run studies in, and a trainer that is a formula."""

from pathlib import Path

import pytest
from studies import SPACE, TUNE, Formula, Lab

from flowbench.tuning import trial as trial_module


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> Formula:
    trainer = Formula()
    monkeypatch.setattr(trial_module, "train", trainer)
    return trainer


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    Path("searched.yaml").write_text(SPACE + TUNE)
    return Lab()
