"""Jobs of a cluster: what reaches its programs, which are stand-ins here, and what they answer."""

from pathlib import Path

import pytest

pytest.importorskip("submitit", reason="submitit is not installed")

from flowbench.__main__ import main
from flowbench.errors import InputError
from flowbench.system.jobs import executor, submit

SUBMITTED = "echo Submitted batch job 7"
REFUSED = "echo 'sbatch: error: invalid partition specified: gup' >&2; exit 1"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "srun"):
        (programs / name).write_text(f"#!/bin/sh\n{SUBMITTED}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return programs


def work() -> int:
    return 1


def test_settings_reach_sbatch(cluster: Path, tmp_path: Path) -> None:
    jobs = executor("slurm", tmp_path / "jobs", "mine", ["partition=gpu", "gpus_per_node=2", "time=600"])
    assert submit(jobs, work).job_id == "7"
    lines = (tmp_path / "jobs" / "7_submission.sh").read_text().splitlines()
    expected = {"--partition=gpu", "--gpus-per-node=2", "--time=600", "--job-name=mine"}
    assert expected <= {line.removeprefix("#SBATCH ") for line in lines}


@pytest.mark.parametrize("setting", ["partition", "=gpu", "par tition=gpu", "partiton=gpu"])
def test_a_bad_setting_is_one_line_that_names_it(cluster: Path, tmp_path: Path, setting: str) -> None:
    with pytest.raises(InputError, match=f"--slurm {setting}") as refused:
        executor("slurm", tmp_path / "jobs", "mine", [setting])
    assert "\n" not in str(refused.value)


def test_what_the_cluster_refuses_is_told_in_its_words(cluster: Path, tmp_path: Path) -> None:
    (cluster / "sbatch").write_text(f"#!/bin/sh\n{REFUSED}\n")
    jobs = executor("slurm", tmp_path / "jobs", "mine", ["partition=gup"])
    with pytest.raises(InputError, match=r"the cluster refuses the job: .*invalid partition"):
        submit(jobs, work)


def test_without_slurm_nothing_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no sbatch here"):
        executor("slurm", tmp_path / "jobs", "mine")
    assert not (tmp_path / "jobs").exists()


def test_slurm_without_its_programs_is_one_line(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cluster / "srun").unlink()
    monkeypatch.setenv("PATH", str(cluster))
    with pytest.raises(InputError, match=r"--submit slurm: submitit refuses it: .*srun"):
        executor("slurm", tmp_path / "jobs", "mine")


@pytest.mark.parametrize("command", [["reproduce", "quick"], ["tune", "real_nvp/digits-study"]])
def test_settings_of_jobs_that_nobody_submits_are_refused(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["flowbench", *command, "--slurm", "partition=gpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--slurm partition=gpu: only jobs on Slurm have it: add --submit slurm" in capsys.readouterr().err
