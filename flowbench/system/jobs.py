"""Jobs of a cluster, through submitit: what both tables and studies are submitted by."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from flowbench.errors import InputError, one_line

__all__ = ["Cluster", "executor", "submit"]

Cluster = Literal["slurm", "local"]
"""`local` is submitit's rehearsal of a cluster, in processes of this machine."""
MINUTES = 24 * 60
"""How long a job may take, unless `time=MINUTES` says otherwise: submitit's own limit is a few minutes."""


def executor(cluster: Cluster, folder: Path, name: str, settings: Sequence[str] = ()) -> Any:
    """Return submitit's executor.

    Args:
        cluster: where its jobs run.
        folder: where submitit keeps what it must know, on a file system that all machines see.
        name: of the jobs.
        settings: `KEY=VALUE` of sbatch, for example `partition=gpu` or `time=600`; not looked at by a rehearsal.

    Raises:
        InputError: submitit or Slurm is missing, a bad setting.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError("--submit needs submitit: pip install 'flowbench[cluster]'") from error
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise InputError("--submit slurm: there is no sbatch here: log in to the cluster, or use --jobs N here")
    parameters = _parameters(settings) if cluster == "slurm" else {}
    try:
        made = submitit.AutoExecutor(folder=folder, cluster=cluster)
        made.update_parameters(name=name, timeout_min=MINUTES, **parameters)
    except (NameError, RuntimeError, TypeError, ValueError) as error:  # no srun; a key that sbatch does not have
        said = " ".join(["--submit", cluster, *(f"--slurm {setting}" for setting in settings)])
        raise InputError(f"{said}: submitit refuses it: {one_line(error)}") from error
    return made


def submit(jobs: Any, work: Callable[[], Any]) -> Any:
    """Give work to an executor; return submitit's job.

    Raises:
        InputError: the cluster refuses it, with its words.
    """
    from submitit.core.utils import FailedJobError

    try:
        return jobs.submit(work)
    except FailedJobError as error:
        raise InputError(f"--submit: the cluster refuses the job: {one_line(error)}") from error


def _parameters(settings: Sequence[str]) -> dict[str, Any]:
    """Return `KEY=VALUE` as submitit's parameters: those of sbatch, with `slurm_` before them."""
    pairs = [setting.partition("=") for setting in settings]
    for key, separator, value in pairs:
        if not separator or not key.isidentifier() or not value:
            raise InputError(f"--slurm {key}{separator}{value}: write KEY=VALUE, for example partition=gpu")
    return {f"slurm_{key}": int(value) if value.isdecimal() else value for key, _, value in pairs}
