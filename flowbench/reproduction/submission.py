"""Each run of a table as a job of its own on a cluster, through submitit."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from flowbench.config.experiments import dump_experiment
from flowbench.config.schema import Experiment
from flowbench.errors import InputError, WorkFailedError
from flowbench.reproduction.agenda import Ended, Pair
from flowbench.runs.folder import RunFolder
from flowbench.system.jobs import Cluster, executor, submit
from flowbench.system.threads import ONE_THREAD

__all__ = ["Jobs", "RunJob"]

ATTEMPTS = 5
POLL_SECONDS = 1.0
WAITING_FOR_LOCK = "another process is training"


class RunJob:
    """What a job does: train one run in a process of its own, which saves itself when the job is told to go.

    Args:
        config: the resolved experiment, YAML.
        run: the run folder, absolute; what lies there is gone on with.
        logger: what mirrors it, see `flowbench train --logger`.
    """

    def __init__(self, config: str, run: str, logger: str = "mlflow") -> None:
        self._config, self._run, self._logger = config, run, logger
        self._process: subprocess.Popen[str] | None = None

    def __call__(self) -> tuple[int, str]:
        """Return the exit code of `flowbench train` and the last line that it said."""
        while True:
            code, last = self._train()
            # The process of a job that was killed a moment ago may still be saving.
            if code != 2 or WAITING_FOR_LOCK not in last:
                return code, last
            time.sleep(POLL_SECONDS)

    def checkpoint(self) -> Any:
        """Called by submitit at SIGUSR1/2 (preemption, time limit): save, and be queued again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
        return DelayedSubmission(RunJob(self._config, self._run, self._logger))

    def _train(self) -> tuple[int, str]:
        config = Path(self._run).parent.parent / "jobs" / f"{Path(self._run).name}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(self._config, encoding="utf-8")
        command = [sys.executable, "-m", "flowbench", "train", str(config), "--run-dir", self._run]
        command += ["--logger", self._logger]
        if RunFolder(Path(self._run)).exists:
            command.append("--resume")
        self._process = subprocess.Popen(
            command,
            env=os.environ | ONE_THREAD,  # as every run of a table
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_obey_parent,
        )
        _, errors = self._process.communicate()
        lines = errors.strip().splitlines() or [f"ended with code {self._process.returncode}"]
        return self._process.returncode, lines[-1].removeprefix("flowbench: ")


def _obey_parent() -> None:
    """In the child: leave the scheduler's signals to the parent, and save and stop when the parent is gone."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Jobs:
    """Jobs on a cluster.

    Args:
        cluster: where they run.
        folder: where submitit keeps what it must know, on a file system that all machines see.
        workers: jobs that run at the same time.
        settings: `KEY=VALUE` of sbatch, for example `partition=gpu`.
        logger: what mirrors the runs, see `flowbench train --logger`.

    Raises:
        InputError: submitit or Slurm is missing, a bad setting.
    """

    def __init__(
        self, cluster: Cluster, folder: Path, workers: int, settings: Sequence[str] = (), logger: str = "mlflow"
    ) -> None:
        self._workers, self._logger = workers, logger
        self._executor = executor(cluster, folder, "flowbench", settings)

    def run(self, queue: deque[Pair], show: Callable[[], None] = lambda: None) -> Generator[Ended]:
        """Submit the runs of the queue, which may grow meanwhile, and yield each that has ended, with what went wrong.

        At most `workers` are submitted at a time.

        A job that dies without a word (SIGKILL, a node lost) is submitted again, up to five times.
        """
        attempts: dict[Path, int] = {}
        live: dict[Path, tuple[Any, Experiment[Any, Any]]] = {}
        try:
            while queue or live:
                while queue and len(live) < self._workers:
                    experiment, run = queue.popleft()
                    attempts[run] = attempts.get(run, 0) + 1
                    live[run] = (self._submit(experiment, run), experiment)
                for run in [run for run, (job, _) in live.items() if job.done()]:
                    job, experiment = live.pop(run)
                    code, words = _ending(job)
                    if code == 0:
                        yield run, None
                    elif code in (1, 2, 3):
                        yield run, (InputError if code == 2 else WorkFailedError)(words)
                    elif attempts[run] < ATTEMPTS:
                        queue.append((experiment, run))
                    else:
                        yield run, WorkFailedError(f"{run}: {words}, {ATTEMPTS} times")
                show()
                time.sleep(POLL_SECONDS)
        finally:
            for job, _ in live.values():
                job.cancel()

    def _submit(self, experiment: Experiment[Any, Any], run: Path) -> Any:
        job = RunJob(dump_experiment(experiment), os.path.abspath(run), self._logger)  # noqa: PTH100
        return submit(self._executor, job)


def _ending(job: Any) -> tuple[int, str]:
    """Return the exit code and the last line of a job that is done; −1 for one that died."""
    try:
        code, words = job.result()
    except Exception as error:  # submitit raises many kinds; its own logs lie in the jobs folder
        return -1, f"the job was lost ({' '.join(str(error).split())[:120]})"
    return int(code), str(words)
