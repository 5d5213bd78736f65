"""The training's end of the mirror: starts the mirror process, tells it which folders to follow, and never waits."""

import json
import logging
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any, ClassVar, Self

from flowbench.system.credentials import scrubbed, without_credentials
from flowbench.system.helpers import own_module
from flowbench.tracking.events import FOLDER, check_installed
from flowbench.tracking.places import tracking_uri
from flowbench.tracking.state import read_state, recorded_bytes
from flowbench.tracking.store import is_installed

__all__ = ["EventMirror", "Mirror"]

_logger = logging.getLogger("flowbench.tracking")


class Mirror:
    """Mirrors run folders into MLflow from a process of its own; nothing here raises or waits, except `close`.

    The process starts with the first run that is followed. It ends with `close`, or by itself when this process dies.
    """

    arguments: ClassVar[tuple[str, ...]] = ()
    """Of the mirror process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._followed: list[Path] = []
        self._uri = ""
        self._warned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def follow(self, run_folder: Path) -> None:
        """Mirror a run from now on, while it grows; it is complete with its `result.json`."""
        folder = Path(run_folder).absolute()
        if folder in self._followed or not self._start():
            return
        self._followed.append(folder)
        self._send({"follow": str(folder)})

    def done(self, run_folder: Path) -> None:
        """Tell that a run has ended, with a result or without; only needed where others follow in the same process."""
        if self._process is not None:
            self._send({"done": str(Path(run_folder).absolute())})

    def close(self, timeout: float = 30.0) -> None:
        """Let the mirror finish, for at most `timeout` seconds; one warning line names what MLflow did not get.

        Else what the mirror has to say is that line.
        """
        process, self._process = self._process, None
        if process is None:
            return
        said = ""
        try:
            self._write(process, {"close": timeout})
            try:
                output, _ = process.communicate(timeout=timeout)
                said = output.decode(errors="replace").strip()
                reason = said or self._last_error()
            except subprocess.TimeoutExpired:
                reason = "no answer in time"
        except (OSError, ValueError) as error:
            reason = str(error)
        finally:
            self._kill(process)
        missed = [folder for folder in self._followed if self._is_missed(folder)]
        self._followed = []
        if missed:
            self._warn_missed(missed, reason)
        elif said:
            self._warn(said)

    def _start(self) -> bool:
        if self._process is not None:
            return True
        if self._warned or not self._is_ready():
            return False
        command, environment = own_module("flowbench.tracking.mirror")
        command += self.arguments
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (a pipe that nobody reads would fill and block)
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
                bufsize=0,
                start_new_session=True,  # Ctrl-C reaches the training alone: the mirror finishes afterwards
            )
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)
        except OSError as error:
            self._warn(f"runs are not tracked: {error}; later: flowbench track import RUN")
            return False
        return True

    def _is_ready(self) -> bool:
        uri = tracking_uri()
        if uri is None:
            return False
        if not is_installed():
            self._warn("mlflow is not installed: runs are not tracked (pip install mlflow, flowbench track import RUN)")
            return False
        self._uri = without_credentials(uri)
        return True

    def _is_missed(self, folder: Path) -> bool:
        state = read_state(folder)
        return state is None or state.covered_bytes != recorded_bytes(folder)

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process is not None
        try:
            self._write(self._process, command)
        except OSError:
            # The mirror died: `close` finds the run incomplete and says so.
            return

    @staticmethod
    def _write(process: subprocess.Popen[bytes], command: dict[str, Any]) -> None:
        # A line shorter than the pipe's atomic size goes whole or, to a process that reads nothing, not at all.
        assert process.stdin is not None
        process.stdin.write(json.dumps(command).encode() + b"\n")

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue

    def _last_error(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 4000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return scrubbed(lines[-1].strip())[:200] if lines else ""

    def _warn_missed(self, missed: list[Path], reason: str) -> None:
        here = Path.cwd()
        shown = [folder.relative_to(here) if folder.is_relative_to(here) else folder for folder in missed]
        names = " ".join(shlex.quote(str(folder)) for folder in shown[:3]) + (" …" if len(shown) > 3 else "")
        self._warn(f"MLflow ({self._uri}) did not get everything: {reason}; later: flowbench track import {names}")

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            _logger.warning("%s", " ".join(message.split()))


class EventMirror(Mirror):
    """Writes TensorBoard's event files into run folders instead, likewise from a process of its own.

    Raises:
        InputError: TensorBoard's package is missing.
    """

    arguments = ("tensorboard",)

    def __init__(self) -> None:
        check_installed()
        super().__init__()

    def follow(self, run_folder: Path) -> None:
        """Mirror a run from now on; a table has no events of its own."""
        if not (Path(run_folder) / "results.json").is_file():
            super().follow(run_folder)

    def _is_ready(self) -> bool:
        return True

    def _is_missed(self, folder: Path) -> bool:
        return (folder / "metrics.jsonl").is_file() and not any((folder / FOLDER).glob("events.*"))

    def _warn_missed(self, missed: list[Path], reason: str) -> None:
        self._warn(f"TensorBoard did not get everything ({', '.join(folder.name for folder in missed[:3])}): {reason}")
