"""`reproduce --gate` and `bounds` as people type them, on a model that is fitted in closed form."""

import sys
from pathlib import Path

import pytest

from flowbench.__main__ import main
from tests.tables.test_bounds import TABLE


def flowbench(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["flowbench", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_bounds_are_measured_written_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    table = Path("mine.yaml")
    table.write_text(TABLE.replace(", real_nvp/digits]", "]"))
    assert flowbench(monkeypatch, "reproduce", "mine.yaml", "--gate") == 2
    assert "no row of table mine has bounds" in capsys.readouterr().err
    assert flowbench(monkeypatch, "reproduce", "mine.yaml", "--seeds", "0,1,2", "--jobs", "1", "--out", "seeds") == 0
    assert flowbench(monkeypatch, "bounds", "seeds", "--table", "mine.yaml") == 0
    assert "independent/digits: 2.41" in capsys.readouterr().out
    assert flowbench(monkeypatch, "reproduce", "mine.yaml", "--gate") == 0
    table.write_text(table.read_text().replace("value: 2.4", "value: 2.5"))
    assert flowbench(monkeypatch, "reproduce", "mine.yaml", "--gate") == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("digits, ")] == [
        line for line in lines if "too good" in line and "0.1000 below 2.51" in line
    ]
    assert lines[-1] == "flowbench: --gate: 1 of 1 figures outside their bounds"
