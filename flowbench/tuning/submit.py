"""Workers of a study as jobs of a cluster, or of this machine, through submitit."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from flowbench.errors import InputError

__all__ = ["Submitted", "submit_workers"]

LOGS = Path("runs") / "jobs"
MINUTES = 24 * 60
"""How long a job may take, unless `time=MINUTES` says otherwise: submitit's own limit is a few minutes."""
Submitted = list[Any]
"""submitit's jobs."""


def submit_workers(
    command: Sequence[str],
    cluster: Literal["slurm", "local"],
    workers: int,
    *,
    storage: str,
    settings: Sequence[str] = (),
    logs: Path = LOGS,
) -> Submitted:
    """Submit `workers` jobs that each run `flowbench tune …`, and return them without waiting.

    Args:
        command: the arguments of `flowbench`, the same for every worker.
        cluster: slurm, or this machine.
        workers: how many.
        storage: the study's, which the workers share.
        settings: `KEY=VALUE` of sbatch, for example `partition=gpu` or `time=600`.
        logs: what the jobs print goes there.

    Raises:
        InputError: submitit or Slurm is missing, a storage that several machines cannot share, a bad setting.
    """
    try:
        import submitit
        from submitit.helpers import CommandFunction
    except ImportError as error:
        raise InputError("--submit: a package is missing: pip install submitit") from error
    if cluster == "slurm" and urlsplit(storage).scheme.startswith("sqlite"):
        raise InputError(
            f"--submit slurm: workers on several machines cannot share {storage}: give --storage postgresql://USER@HOST"
            "/NAME, or grpc://HOST:PORT"
        )
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise InputError("--submit slurm: there is no sbatch here: log in to the cluster, or use --submit local")
    executor = submitit.AutoExecutor(folder=logs / "%j", cluster=cluster)
    executor.update_parameters(
        name="flowbench-tune", timeout_min=MINUTES, **(_slurm(settings) if cluster == "slurm" else {})
    )
    work = CommandFunction([sys.executable, "-m", "flowbench", *command], verbose=True, cwd=Path.cwd())
    return [executor.submit(work) for _ in range(workers)]


def _slurm(settings: Sequence[str]) -> dict[str, Any]:
    """Return `KEY=VALUE` as submitit's parameters: those of sbatch, with `slurm_` before them."""
    pairs = [setting.partition("=") for setting in settings]
    for key, separator, value in pairs:
        if not separator or not key.isidentifier() or not value:
            raise InputError(f"--slurm {key}{separator}{value}: write KEY=VALUE, for example partition=gpu")
    return {f"slurm_{key}": int(value) if value.isdecimal() else value for key, _, value in pairs}
