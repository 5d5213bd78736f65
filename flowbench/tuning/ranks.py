"""One process of a trial that several train: `torchrun --nproc-per-node N -m flowbench.tuning.ranks FOLDER`.

Started by `flowbench.tuning.together`, whose worker the first process asks at every validation whether to go on.
"""

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from flowbench.config.experiments import load_experiment
from flowbench.config.extensions import import_inherited
from flowbench.errors import FlowbenchError, one_line
from flowbench.system import atomic
from flowbench.system.interruption import Interrupted
from flowbench.system.processes import from_leader
from flowbench.training.loop import train
from flowbench.tuning.together import CONFIG, QUESTIONS, REQUEST

__all__ = ["main"]


class _Line:
    """The first process's end. The line breaks when the worker dies: this process then asks itself to stop, too."""

    def __init__(self, path: Path) -> None:
        self._peer = socket.socket(socket.AF_UNIX)
        self._peer.connect(str(path))
        self._answers: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, step: int, figures: Mapping[str, float]) -> bool:
        """Say whether to go on after this validation."""
        with suppress(OSError):
            self._peer.sendall(json.dumps({"step": step, "figures": dict(figures)}).encode() + b"\n")
        answer = self._answers.get()
        # Without an answer the training goes on to the stop that was asked for, which saves it.
        return answer is None or bool(answer["go_on"])

    def _listen(self) -> None:
        with suppress(OSError):
            for line in self._peer.makefile("rb"):
                self._answers.put(json.loads(line))
        self._answers.put(None)
        os.kill(os.getpid(), signal.SIGTERM)


class _PrunedError(Exception):
    """The worker has pruned the trial."""


def main() -> int:
    """Train as one of the processes of a trial and return the exit status."""
    import_inherited()
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    line = _Line(folder / QUESTIONS) if rank == 0 else None

    def watch(step: int, figures: Mapping[str, float]) -> None:
        if not from_leader(lambda: line is not None and line.ask(step, figures)):
            raise _PrunedError

    try:
        train(
            load_experiment(folder / CONFIG),
            Path(request["run"]),
            resume=request["resume"],
            time_budget=request["time_budget"],
            watch=watch,
        )
    except _PrunedError:
        return 0
    except Interrupted as stopped:
        return stopped.exit_code
    except Exception as error:
        kind = "" if isinstance(error, FlowbenchError) else f"{type(error).__name__}: "
        # A worker that was killed has taken the folder with it, or nobody reads it any more.
        with suppress(OSError):
            atomic.write_json(folder / f"error-{rank}.json", {"error": kind + one_line(error)})
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
