"""Run folders: what a training leaves behind, written so that a crash at any moment loses nothing that was saved."""

import errno
import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import torch

from flowbench.config.experiments import config_sha256, dump_experiment, experiment_of, load_experiment
from flowbench.config.extensions import missing_imports
from flowbench.config.result_notes import UNDRAWN
from flowbench.config.schema import Experiment
from flowbench.config.yaml_files import read_mapping
from flowbench.errors import BusyError, InputError, did_you_mean, in_words, why
from flowbench.runs import bundle
from flowbench.runs.kept import KeptRun, kept_figures, kept_run
from flowbench.system import atomic

__all__ = ["RUNS", "RunFolder", "find_run", "find_runs", "new_run_path", "run_path_of"]

RUNS = Path("runs")
"""Where runs are kept unless a command says otherwise."""


class RunFolder:
    """One run on disk: config, environment, metrics, checkpoints, result, figures (the folder is the truth).

    Where there is no folder, what is kept of it (`flowbench.runs.kept`) can be read all the same.

    Args:
        path: the folder; it need not exist before `begin`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.evaluations = path / "evaluations"
        self._metrics = path / "metrics.jsonl"
        self._failure = path / "failure.json"
        self._checkpoint = path / "checkpoint.pt"
        self._previous = path / "checkpoint.previous.pt"

    @property
    def kept(self) -> KeptRun | None:
        """What is kept of the run, where it is no folder."""
        return None if (self.path / "config.yaml").is_file() else kept_run(self.path)

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "config.yaml").is_file() or self.kept is not None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "result.json").is_file() or self.kept is not None

    @property
    def undrawn(self) -> bool:
        """Whether the run is finished, and was stopped before the pictures of its end were drawn."""
        if not self.finished or self.kept is not None:
            return False
        notes = self.result.get("notes")
        return isinstance(notes, list) and UNDRAWN in notes

    @property
    def figures(self) -> Path:
        """The folder of the run's pictures."""
        return self.path / "figures" if self.kept is None else kept_figures(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """The content of `config.yaml`; InputError when it is missing or not readable."""
        file, kept = self.path / "config.yaml", self.kept
        return read_mapping(file, "an experiment file") if kept is None else dict(kept.config)

    @property
    def experiment(self) -> Experiment[Any, Any]:
        """The resolved experiment of the run."""
        file, kept = self.path / "config.yaml", self.kept
        try:
            return load_experiment(file) if kept is None else experiment_of(kept.config, file)
        except InputError as error:
            missing = None
            with suppress(InputError):  # without an environment the config's own problem is what there is to tell
                missing = missing_imports(self.environment.get("imports", []))
            if missing is None:
                raise
            raise InputError(f"{self.path}: {missing}") from error

    @property
    def result(self) -> dict[str, Any]:
        """The content of `result.json`; InputError when it is missing or not readable."""
        kept = self.kept
        return _read_json(self.path / "result.json") if kept is None else dict(kept.result)

    @property
    def environment(self) -> dict[str, Any]:
        """The content of `environment.json`; InputError when it is missing or not readable."""
        kept = self.kept
        return _read_json(self.path / "environment.json") if kept is None else dict(kept.environment)

    @property
    def costs(self) -> dict[str, Any] | None:
        """The content of `costs.json`, what an image costs in each pass; None where that was not measured."""
        if (kept := self.kept) is not None:
            return None if kept.costs is None else dict(kept.costs)
        file = self.path / "costs.json"
        return _read_json(file) if file.is_file() else None

    def write_costs(self, costs: Mapping[str, Any]) -> None:
        """Write `costs.json`."""
        atomic.write_json(self.path / "costs.json", costs)

    @property
    def step(self) -> int:
        """The last step whose metrics were logged; 0 before."""
        return max((int(row["step"]) for row in self.metrics()), default=0)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against a second training; the lock dies with its process.

        Raises:
            BusyError: another process trains here.
            InputError: the folder cannot be written.
        """
        lock = filelock.FileLock(self.path / ".lock", timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout as error:
            raise BusyError(
                f"{self.path}: another process is training in this folder: wait for it, or give another --run-dir"
            ) from error
        except OSError as error:
            raise InputError(f"{self.path}: the run folder cannot be written: {why(error)}") from error
        try:
            for folder in (self.path, self.figures, self.evaluations):
                atomic.sweep(folder)
            yield
        finally:
            lock.release()

    def begin(self, experiment: Experiment[Any, Any], environment: Mapping[str, Any]) -> None:
        """Write `config.yaml` and `environment.json`: from here on the run exists."""
        atomic.write_json(self.path / "environment.json", environment)
        atomic.write_text(self.path / "config.yaml", dump_experiment(experiment))

    def check_config(self, experiment: Experiment[Any, Any]) -> None:
        """Raise InputError unless the folder's run has the same config."""
        # The whole config, not its hash, which leaves out paths: two CSV files are two trainings.
        if self.experiment != experiment:
            raise InputError(
                f"{self.path}: holds a run of another config (see its config.yaml): give another --run-dir, "
                f"or train {self.path / 'config.yaml'} itself"
            )

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one row (`step`, `epoch`, `time`, values) to `metrics.jsonl`; non-finite values become null."""
        finite = {key: _finite(value) for key, value in row.items()}
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of `metrics.jsonl`; a last line torn by a crash is left out."""
        if (kept := self.kept) is not None:
            return kept.metrics()
        try:
            lines = self._metrics.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number < len(lines):
                    raise InputError(f"{self._metrics}: line {number} is not JSON: {error.msg}") from error
        return rows

    def cut_metrics(self, step: int) -> None:
        """Remove the rows past `step`, which a resumed run will write again."""
        if not self._metrics.exists():
            return
        rows = [row for row in self.metrics() if row["step"] <= step]
        atomic.write_text(self._metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace `checkpoint.pt` atomically and keep the one before as `checkpoint.previous.pt`."""
        # In memory first: of a full disk torch's own writer only tells that it was at an unexpected position.
        content = io.BytesIO()
        torch.save(dict(state), content)
        # The rows up to this step must not be lost to a power failure that the checkpoint survives.
        atomic.sync(self._metrics)
        with atomic.replacing(self._checkpoint) as temporary:
            temporary.write_bytes(content.getbuffer())
            if self._checkpoint.exists():
                self._keep_previous()

    def _keep_previous(self) -> None:
        # A hard link first, so that at every moment at least one good checkpoint has a name.
        spare = self._previous.with_suffix(".link")
        spare.unlink(missing_ok=True)
        try:
            os.link(self._checkpoint, spare)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            # Some file systems (FAT, some network shares) have no hard links.
            atomic.write_bytes(self._previous, self._checkpoint.read_bytes())
        else:
            spare.replace(self._previous)

    def set_aside_checkpoint(self) -> None:
        """Rename a damaged `checkpoint.pt`: the next save would keep it in the place of the good one before."""
        self._checkpoint.replace(self._checkpoint.with_suffix(".damaged"))

    def load_checkpoint(self) -> tuple[dict[str, Any], str | None] | None:
        """Return the newest sound checkpoint (on the CPU) and a note if it is not the newest one; None: there is none.

        Of an exported model it holds `model`, `ema`, `population` and `step` alone.

        Raises:
            InputError: checkpoints are there, but every one is damaged; an exported file was changed; the run is kept
                without its weights.
        """
        if self.kept is not None:
            raise InputError(f"{self.path}: kept without its weights: train it again to use them")
        if bundle.is_bundle(self.path):
            return bundle.read_state(self.path), None
        problems: list[str] = []
        for path in (self._checkpoint, self._previous):
            if not path.exists():
                continue
            problem = _damage(path)
            if problem is None:
                try:
                    state = torch.load(path, map_location="cpu", weights_only=True)
                except pickle.UnpicklingError:
                    # torch's own words advise to load it without weights_only.
                    problem = f"{path}: not a checkpoint: damaged, or refused for more than tensors and plain values"
                except Exception as error:  # torch raises many kinds for files that are zips but no checkpoints
                    problem = f"{path}: not a checkpoint: {' '.join(str(error).split())[:200]}"
                else:
                    return state, "; ".join([*problems, f"using {path.name}"]) if problems else None
            problems.append(problem)
        if problems:
            raise InputError(f"{'; '.join(problems)}: remove the folder and train again")
        return None

    @contextmanager
    def reading_checkpoint(self) -> Iterator[None]:
        """Inside the block, a state that has another form than this run's is an InputError in one line."""
        try:
            yield
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(f"{self._checkpoint}: not a checkpoint of this run ({reason}): train it again") from error

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Inside the block, an error that ends the training is written down in `failure.json`; a stop is no error."""
        try:
            yield
        except Exception as error:
            # Where one process of several fails, the others' errors follow from its own, which is there first.
            if not self._failure.exists():
                with suppress(OSError):
                    atomic.write_json(self._failure, {"schema": 1, "reason": in_words(error)})
            raise

    @property
    def failed(self) -> bool:
        """Whether an error ended its last training."""
        return self._failure.exists()

    def forget_failure(self) -> None:
        """Remove `failure.json`: the training goes on."""
        self._failure.unlink(missing_ok=True)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`: from here on the run is finished."""
        atomic.write_json(self.path / "result.json", result)

    def note_drawn(self, failed: list[str]) -> None:
        """Say in the result of an `undrawn` run, instead, which pictures failed: a line for each."""
        # An export's files are those that its manifest lists.
        if self.undrawn and not bundle.is_bundle(self.path):
            result = self.result
            said = [note for note in result["notes"] if note != UNDRAWN]
            self.write_result({**result, "notes": [*said, *failed]})


def new_run_path(experiment: Experiment[Any, Any]) -> Path:
    """Return a path for a new run: `runs/<experiment>/<config>-seed<k>`, numbered where that is taken."""
    base = RUNS / experiment.name / f"{config_sha256(experiment)[:10]}-seed{experiment.seed}"
    candidates = [base, *(base.with_name(f"{base.name}-{number}") for number in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())


def run_path_of(
    experiment: Experiment[Any, Any], run_dir: Path | None, *, resume: bool, one_of_many: bool = False
) -> Path:
    """Return the run folder that is meant: the given one, the newest unfinished one to resume, or a new one.

    Args:
        experiment: of the run.
        run_dir: where it was asked for.
        resume: go on with one.
        one_of_many: it is one of several seeds: the newest finished one will do, and a new one where there is none.

    Raises:
        InputError: there is no unfinished run to resume.
    """
    if run_dir is not None:
        return run_dir
    if not resume:
        return new_run_path(experiment)
    mine = [run for run in _runs_of(RUNS / experiment.name) if _is_of(run, experiment)]
    found = [run for run in mine if not run.finished] or (mine if one_of_many else [])
    if found:
        return found[0].path
    if one_of_many:
        return new_run_path(experiment)
    raise InputError(f"{experiment.name}: no unfinished run of this config under runs/: train without --resume")


def _is_of(run: RunFolder, experiment: Experiment[Any, Any]) -> bool:
    """Say whether a run has this very config, paths included; one that cannot be read today is another one."""
    try:
        return run.experiment == experiment
    except InputError:
        return False


def find_run(run: str) -> RunFolder:
    """Find a run by folder, by `<experiment>/<run id>` or by the experiment's name (its newest finished run).

    Raises:
        InputError: there is no such run.
    """
    for path in (Path(run), RUNS / run):
        if RunFolder(path).exists:
            return RunFolder(path)
    finished = [found for found in _runs_of(RUNS / run) if found.finished]
    if finished:
        return finished[0]
    known = {path.parent.parent.relative_to(RUNS).as_posix() for path in RUNS.glob("*/*/*/config.yaml")}
    known |= {path.parent.as_posix() for path in RUNS.glob("*/config.yaml")}  # of `--run-dir runs/first`
    hint = did_you_mean(run, known) if known else f"; there are no runs under {RUNS}/ yet: flowbench train EXPERIMENT"
    raise InputError(f"no run {run!r}: neither a run folder nor an experiment with a finished run{hint}")


def find_runs(experiment: str) -> list[RunFolder]:
    """Return all runs of an experiment under `runs/`, the newest first."""
    return _runs_of(RUNS / experiment)


def _runs_of(folder: Path) -> list[RunFolder]:
    configs = sorted(folder.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [RunFolder(path.parent) for path in configs]


def _damage(path: Path) -> str | None:
    # torch.load does not look at the zip members' CRC: a flipped bit in a weight would load without complaint.
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except Exception as error:  # zipfile has no common one: a flipped bit in a name is a UnicodeDecodeError
        return f"{path}: damaged ({' '.join(str(error).split())[:200]})"
    return None if member is None else f"{path}: damaged (checksum of {member} is wrong)"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))) else value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file: the run is not finished (train --resume)") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object")
    return content
