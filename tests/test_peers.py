"""Scripts that measure other people's forecasters on our windows: skipped where these are not installed."""

import importlib.util
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

DEEPAR = Path(__file__).parents[1] / "benchmarks" / "peer_deepar.py"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(DEEPAR), *arguments])
    runpy.run_path(str(DEEPAR), run_name="__main__")


def test_without_gluonts_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gluonts" else found(name))
    call(monkeypatch, "etth/gaussian", "--out", str(tmp_path / "deepar.json"))
    captured = capsys.readouterr()
    assert (captured.out, "gluonts is not installed" in captured.err) == ("", True)
    assert not (tmp_path / "deepar.json").exists()


@pytest.mark.slow
def test_deepar_is_scored_on_every_test_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gluonts", reason="gluonts is not installed")
    values = np.sin(np.arange(600)[:, None] / 24 * 2 * np.pi + np.arange(2)) + 0.1 * np.random.default_rng(0).normal(
        size=(600, 2)
    )
    frame = pd.DataFrame(values, columns=["a", "b"])
    frame.insert(0, "date", pd.date_range("2020-01-01", periods=600, freq="1h"))
    frame.to_csv(tmp_path / "mine.csv", index=False)
    windows = [f"data.csv={tmp_path / 'mine.csv'}", "data.protocol=ratio", "data.lookback=24", "data.horizon=6"]
    short = ["--epochs", "1", "--batches", "2", "--out", str(tmp_path / "deepar.json")]
    call(monkeypatch, "etth/gaussian", *windows, *short)
    content: dict[str, Any] = json.loads((tmp_path / "deepar.json").read_text())
    assert (content["metrics"]["n"], content["samples"]) == (115, 99)
    assert 0 < content["metrics"]["crps"]["value"] < content["metrics"]["mae_median"]["value"]
