"""Workers of a study as jobs of a cluster, through submitit."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flowbench.errors import InputError
from flowbench.system.credentials import has_credentials, without_credentials
from flowbench.system.jobs import Cluster, executor, submit

__all__ = ["STORAGE_VARIABLE", "Submitted", "submit_workers"]

STORAGE_VARIABLE = "OPTUNA_STORAGE"
"""Optuna's own: jobs get a URL that holds a password here, where no file, log or list of processes shows it."""

LOGS = Path("runs") / "jobs"
Submitted = list[Any]
"""submitit's jobs."""


def submit_workers(
    command: Sequence[str],
    cluster: Cluster,
    workers: int,
    *,
    storage: str,
    settings: Sequence[str] = (),
    logs: Path = LOGS,
) -> Submitted:
    """Submit `workers` jobs that each run `flowbench tune …`, and return them without waiting.

    Args:
        command: the arguments of `flowbench` but `--storage`, the same for every worker.
        cluster: slurm, or submitit's rehearsal of one in processes of this machine.
        workers: how many.
        storage: the study's, which the workers share.
        settings: `KEY=VALUE` of sbatch, for example `partition=gpu` or `time=600`.
        logs: what the jobs print goes there.

    Raises:
        InputError: submitit or Slurm is missing, a storage that several machines cannot share, a bad setting.
    """
    if cluster == "slurm" and urlsplit(storage).scheme.startswith("sqlite"):
        raise InputError(
            f"--submit slurm: workers on several machines cannot share {without_credentials(storage)}: give --storage postgresql://USER@HOST"
            "/NAME, or grpc://HOST:PORT"
        )
    jobs = executor(cluster, logs / "%j", "flowbench-tune", settings)
    from submitit.helpers import CommandFunction

    secret = has_credentials(storage)
    arguments = [*command, *([] if secret else ["--storage", storage])]
    work = CommandFunction([sys.executable, "-m", "flowbench", *arguments], verbose=True, cwd=Path.cwd())
    with _passed_on(storage) if secret else nullcontext():
        return [submit(jobs, partial(_with_storage, work) if secret else work) for _ in range(workers)]


@contextmanager
def _passed_on(storage: str) -> Iterator[None]:
    """Inside the block, what is started or submitted finds the storage in its environment."""
    before = os.environ.get(STORAGE_VARIABLE)
    os.environ[STORAGE_VARIABLE] = storage
    try:
        yield
    finally:
        os.environ.pop(STORAGE_VARIABLE)
        if before is not None:
            os.environ[STORAGE_VARIABLE] = before


def _with_storage(work: Callable[[], str]) -> str:
    """In the job: work, unless the environment did not come along; the study would be another one."""
    if STORAGE_VARIABLE not in os.environ:
        raise InputError(f"{STORAGE_VARIABLE} did not reach the job: submit with --slurm export=ALL")
    return work()
