"""One run folder and its copy in MLflow: makes the copy, keeps it up to date, and never puts anything in twice.

The server is asked for what it has before anything is written, and again after every failure (a request that timed out
may have been carried out). A value is known by its name and step: rows that a resumed training cut and wrote again stay
in MLflow as they were first logged; `metrics.jsonl` itself, kept beside them, is the last word.
"""

import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from flowbench.errors import InputError
from flowbench.system.credentials import without_credentials
from flowbench.tracking import content
from flowbench.tracking.nesting import parent_of, tell_parent, trial_status, trial_tags, trial_values
from flowbench.tracking.places import artifact_location, left_behind
from flowbench.tracking.state import MirrorState, new_uid, read_state, recorded_bytes, write_state

__all__ = ["UID_TAG", "RunCopy", "experiment_called"]

UID_TAG = "flowbench.run_uid"
ORIGIN_TAG = "flowbench.origin"
METRICS_PER_BATCH = 1000
PARAMETERS_PER_BATCH = 100
SAMPLES_KEPT = 720
"""System samples that wait for a server: two hours of them."""


class RunCopy:
    """The copy in MLflow of one run folder.

    Args:
        folder: the run folder.
        client: an `MlflowClient`.
        uri: where it leads.
        live: the run is being trained now: MLflow shows it as running.
    """

    def __init__(self, folder: Path, client: Any, uri: str, *, live: bool) -> None:
        self._folder, self._client, self._uri, self._live = folder, client, uri, live
        self._tail = content.MetricsTail(folder / "metrics.jsonl")
        self._lock = FileLock(folder / ".mlflow.lock", timeout=0)
        self.note = ""
        """What the person should know of a copy that was made all the same."""
        self._samples: deque[tuple[int, Mapping[str, float]]] = deque(maxlen=SAMPLES_KEPT)
        self._run: Any = None
        self._uid = ""
        self._origin: str | None = None
        self._there: dict[str, set[int]] = {}
        self._last: dict[str, int] = {}

    def update(self) -> None:
        """Bring the copy's metrics up to date.

        Raises:
            InputError: the folder holds no run, or another process copies it.
            Exception: whatever MLflow raises; the next call begins by asking the server what it has.
        """
        try:
            self._attach()
            try:
                self._copy_rows()
            except content.RowsCutError:
                self._forget()
                self._attach()
                self._copy_rows()
            self._copy_samples()
        except BaseException:
            self._forget()
            raise

    def finish(self) -> str:
        """Bring the whole copy up to date: metrics, result, files and state of the run; return MLflow's run id."""
        covered = recorded_bytes(self._folder)
        self.update()
        run_id: str = self._run.info.run_id
        try:
            result = content.read_object(self._folder / "result.json")
            self._tag(content.tags(self._folder, content.read_config(self._folder)) | trial_tags(self._folder))
            if result is not None:
                self._copy_result(result)
            self.note = self._moved()
            for path, place in content.artifacts(self._folder):
                self._client.log_artifact(run_id, str(path), place)
            self._copy_values()
            self._end("FINISHED" if result is not None else trial_status(self._folder) or content.end(self._folder))
            self._write_state(covered)
        except BaseException:
            self._forget()
            raise
        return run_id

    def sample(self, values: Mapping[str, float]) -> None:
        """Keep a sample of the machine's state, for the next `update`."""
        self._samples.append((int(time.time() * 1000), dict(values)))

    def close(self) -> None:
        """Let other processes copy the folder."""
        # Attempts that failed after taking the lock have raised its count.
        self._lock.release(force=True)

    def _forget(self) -> None:
        self._run = None
        self._tail.rewind()

    def _attach(self) -> None:
        """Find or make the MLflow run, unless that is done, and learn what it holds."""
        if self._run is not None:
            return
        config = content.read_config(self._folder)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise InputError(
                f"{self._folder}: another process is copying this run: try again when it is done"
            ) from error
        state = read_state(self._folder)
        self._origin = content.origin(self._folder)
        experiment_id = experiment_called(content.experiment_name(config), self._client, self._uri)
        run = self._find(experiment_id, state)
        self._uid = run.data.tags[UID_TAG] if run is not None else state.uid if state is not None else new_uid()
        if run is None:
            run = self._client.create_run(
                experiment_id, self._start(), self._identity(), content.text(self._folder.resolve().name, 250)
            )
        self._there = {
            name: {metric.step for metric in self._client.get_metric_history(run.info.run_id, name)}
            for name in run.data.metrics
            if not name.startswith("system/")
        }
        self._last = {}
        self._run = run
        self._write_state(0 if state is None else state.covered_bytes)
        self._describe(config)
        self._tag(parent_of(self._folder, self._client, experiment_id) | trial_tags(self._folder))

    def _find(self, experiment_id: str, state: MirrorState | None) -> Any:
        # Without mlflow.json, the first row's own time still tells the run from every other.
        known = {UID_TAG: state.uid} if state is not None else {ORIGIN_TAG: self._origin} if self._origin else {}
        for tag, value in known.items():
            runs = self._client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'", max_results=1)
            if runs:
                return self._client.get_run(runs[0].info.run_id)
        return None

    def _identity(self) -> dict[str, str]:
        return {UID_TAG: self._uid} | ({ORIGIN_TAG: self._origin} if self._origin else {})

    def _start(self) -> int:
        return content.began(self._folder)

    def _describe(self, config: Mapping[str, Any]) -> None:
        run_id, there = self._run.info.run_id, self._run.data.params
        parameters = [Param(key, value) for key, value in content.parameters(config).items() if key not in there]
        for start in range(0, len(parameters), PARAMETERS_PER_BATCH):
            batch = parameters[start : start + PARAMETERS_PER_BATCH]
            self._client.log_batch(run_id, params=batch, synchronous=True)
        tags = content.tags(self._folder, config)
        self._tag(tags)
        if not self._run.inputs.dataset_inputs and tags.get("flowbench.dataset"):
            self._client.log_inputs(run_id, [_dataset(tags, config)])
        if self._live and self._run.info.status != "RUNNING":
            self._client.update_run(run_id, "RUNNING")

    def _tag(self, tags: Mapping[str, str]) -> None:
        self._origin = content.origin(self._folder)
        there = self._run.data.tags
        changed = {key: value for key, value in {**self._identity(), **tags}.items() if there.get(key) != value}
        if changed:
            written = [RunTag(key, value) for key, value in changed.items()]
            self._client.log_batch(self._run.info.run_id, tags=written, synchronous=True)
            there.update(changed)

    def _copy_rows(self) -> None:
        while rows := self._tail.read():
            if self._origin is None:
                self._tag({})
            self._log([(row.values, row.step, row.time) for row in rows])

    def _copy_samples(self) -> None:
        if self._samples:
            start = self._run.info.start_time
            waiting = list(self._samples)
            self._log([(values, max(0, moment - start) // 1000, moment) for moment, values in waiting])
            self._samples.clear()

    def _copy_result(self, result: Mapping[str, Any]) -> None:
        steps = result.get("steps")
        step = steps if type(steps) is int and 0 <= steps < 2**53 else 0
        written = int((self._folder / "result.json").stat().st_mtime * 1000)
        self._log([(content.beside_curve(content.final_values(result), self._folder), step, written)])

    def _copy_values(self) -> None:
        """Log what a trial was chosen by, under one name whether it came to its end or was pruned."""
        values = trial_values(self._folder)
        if values:
            rows = content.MetricsTail(self._folder / "metrics.jsonl").read()
            self._log([(values, rows[-1].step if rows else 0, content.ended(self._folder))])

    def _log(self, rows: Iterable[tuple[Mapping[str, float], int, int]]) -> None:
        """Log what is not there yet of rows (values, step, time in ms)."""
        metrics = []
        for values, step, moment in rows:
            for key, value in values.items():
                # Within one file steps only grow, so that the last one stands for all that were logged since.
                if step not in self._there.get(key, ()) and step > self._last.get(key, -1):
                    metrics.append(Metric(key, value, moment, step))
                    self._last[key] = step
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            batch = metrics[start : start + METRICS_PER_BATCH]
            self._client.log_batch(self._run.info.run_id, metrics=batch, synchronous=True)

    def _moved(self) -> str:
        # An experiment's files lie in <its folder>/<run id>/artifacts.
        recorded = str(self._run.info.artifact_uri).removesuffix("/artifacts").removesuffix(f"/{self._run.info.run_id}")
        moved = left_behind(self._uri, content.experiment_name(content.read_config(self._folder)), recorded)
        if moved is None:
            return ""
        return f"MLflow's store was moved from {moved[0]}, and files still go there: flowbench doctor says what to do"

    def _end(self, status: str) -> None:
        # A run that MLflow holds for ended keeps its end; its status may have been mended by a resumed training.
        info = self._client.get_run(self._run.info.run_id).info
        if info.status != status:
            # MLflow prints an advertisement of the run's page: results alone belong on stdout.
            with redirect_stdout(sys.stderr):
                self._client.set_terminated(self._run.info.run_id, status, content.ended(self._folder))
        parent = self._run.data.tags.get("mlflow.parentRunId")
        if parent is not None:
            tell_parent(self._folder, self._client, parent)

    def _write_state(self, covered_bytes: int) -> None:
        state = MirrorState(self._uid, without_credentials(self._uri), self._run.info.run_id, covered_bytes)
        write_state(self._folder, state)


def experiment_called(name: str, client: Any, uri: str) -> str:
    """Return the id of MLflow's experiment of this name, which is made where there is none.

    Raises:
        InputError: it is deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            created: str = client.create_experiment(name, artifact_location(uri, name))
        except MlflowException:
            # Another process may have been faster.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
        else:
            return created
    if experiment.lifecycle_stage == "deleted":
        raise InputError(
            f"MLflow's experiment {name!r} is deleted: "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    found: str = experiment.experiment_id
    return found


def _dataset(tags: Mapping[str, str], config: Mapping[str, Any]) -> DatasetInput:
    fingerprint = tags.get("flowbench.data_fingerprint", "")
    name = content.text(tags["flowbench.dataset"], 500)
    source = content.text({"name": name, "fingerprint": fingerprint}, 5000)
    data = content.text(config.get("data") or {}, 5000)
    # A digest has at most 36 characters; the whole fingerprint stands in the source and in a tag.
    dataset = Dataset(name, fingerprint[:32] or "unknown", "flowbench", source, profile=data)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
