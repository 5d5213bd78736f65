"""What a table says before and while it is made."""

from pathlib import Path
from typing import Any

import pytest

from flowbench.config.experiments import load_experiment
from flowbench.errors import WorkFailedError
from flowbench.reproduction import outlook
from flowbench.reproduction.agenda import Agenda
from flowbench.reproduction.outlook import plan
from flowbench.reproduction.reproduce import reproduce
from flowbench.reproduction.watching import Told, look
from flowbench.runs.folder import RunFolder
from flowbench.tables.table import load_table
from tests.faked_runs import FakeTrainer


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have nothing else to do, whatever it does."""
    monkeypatch.setattr(outlook, "busy", lambda _: None)


def planned(out: Path, *overrides: str, only: tuple[str, ...] = (), at_a_time: int = 2, **options: Any) -> list[str]:
    table = load_table("quick")
    agenda = Agenda(table, out, "flowbench reproduce quick", options.get("seeds"), overrides)
    agenda.plan(table.select(only), {})
    return plan(agenda, [run for _, run in agenda.unfinished], at_a_time)


def test_the_plan_says_runs_rows_seeds_and_how_long_they_take_side_by_side(tmp_path: Path) -> None:
    seconds = [entry.seconds or 0 for row in load_table("quick").rows for entry in row.experiments]
    assert planned(tmp_path) == [
        "table quick: 6 runs to make, 2 at a time; about 4 min where a core is free for each",
        "  digits: 4 experiments, seed 0",
        "  ETTh1 96: 2 experiments, seed 0",
    ]
    assert f"; about {sum(seconds) / 60:.0f} min where" in planned(tmp_path, at_a_time=1)[0]
    seeds = planned(tmp_path, only=("digits",), seeds=[0, 2], at_a_time=6)
    assert seeds[0] == "table quick: 8 runs to make, 6 at a time; about 4 min where a core is free for each"
    assert seeds[1:] == ["  digits: 4 experiments, seeds 0, 2"]


def test_how_long_other_settings_take_is_not_said(tmp_path: Path) -> None:
    first = planned(tmp_path, "train.steps=7", only=("digits",), at_a_time=1)[0]
    assert first.endswith(
        " 4 runs to make; how long is not known here: flowbench reproduce quick --dry-run measures it"
    )


def test_a_busy_machine_is_told_of_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlook, "busy", lambda threads: f"load 9.0, {threads} more")
    assert planned(tmp_path)[1] == "  this machine is busy already (load 9.0, 2 more): expect it to take longer"


def test_a_line_stays_for_each_run_that_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = FakeTrainer({("glow/digits", 0): WorkFailedError("diverged")})
    reproduce("quick", only=["digits"], out=tmp_path, trainer=trainer, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[2:] == [
        "run 1 of 4: digits, independent/digits, seed 0: 2.0000 ± 0.0200 bits/dim, 12 s",
        "run 2 of 4: digits, real_nvp/digits, seed 0: 2.0000 ± 0.0200 bits/dim, 12 s",
        "run 3 of 4: digits, glow/digits, seed 0: failed: diverged",
        "run 4 of 4: digits, pixelcnn/digits, seed 0: 2.0000 ± 0.0200 bits/dim, 12 s",
    ]


def test_what_a_runs_process_says_comes_before_what_lies_in_its_folder(tmp_path: Path) -> None:
    experiment = load_experiment("real_nvp/digits", ["train.steps=100"])
    run = RunFolder(tmp_path / "run")
    with run.lock():
        run.begin(experiment, {})
    told = Told()
    assert look("digits", experiment, run.path, 1000.0, told).state == "starting"
    told.hear("training", 0.01, 1000.0)
    told.hear("training", 0.03, 1004.0)
    one = look("digits", experiment, run.path, 1004.0, told)
    assert (one.state, one.progress) == ("running", 0.03)
    assert one.seconds_left == pytest.approx(194.0)
    told.hear("evaluating digits test", 0.5, 1300.0)
    one = look("digits", experiment, run.path, 1300.0, told)
    assert (one.state, one.progress, one.seconds_left) == ("evaluating", 0.5, None)
