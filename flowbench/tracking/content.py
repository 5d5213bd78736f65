"""What of a run folder goes into MLflow, in the forms that MLflow accepts; files in, plain values out.

Run folders come from anywhere: whatever is not a finite number, a short text or a plain file is left out.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from flowbench.config.metric_words import known_values, remarks
from flowbench.config.result_notes import UNDRAWN
from flowbench.config.yaml_files import refuse_odd_numbers
from flowbench.errors import InputError

__all__ = [
    "MetricsTail",
    "Row",
    "RowsCutError",
    "artifacts",
    "began",
    "beside_curve",
    "end",
    "ended",
    "entity_name",
    "experiment_name",
    "final_values",
    "finite",
    "has_ended",
    "last_value",
    "origin",
    "parameters",
    "read_config",
    "read_object",
    "tags",
    "text",
]

MAX_NAME = 250
MAX_PARAMETER = 6000
MAX_TAG = 5000
MAX_FILE_BYTES = 16_000_000
_CHUNK_BYTES = 4_000_000
_END_BYTES = 200_000
_UNFIT = re.compile(r"[^\w\-. /]")


class Row(NamedTuple):
    """One row of `metrics.jsonl`: its step, its time in ms since 1970 and its finite values by MLflow's names."""

    step: int
    time: int
    values: dict[str, float]


class RowsCutError(Exception):
    """The file was replaced or shortened (a resumed training cut it): start again from its beginning."""


class MetricsTail:
    """Reads `metrics.jsonl` while it grows, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode: int | None = None

    def rewind(self) -> None:
        """Begin again with the first row."""
        self._offset, self._inode = 0, None

    def read(self) -> list[Row]:
        """Return the next rows, at most a few megabytes of them; an empty list: there are no more for now.

        Raises:
            RowsCutError: what was read before is no longer the beginning of the file.
            InputError: the file holds no lines.
        """
        rows: list[Row] = []
        # Lines without a row (damaged ones) must not look like the end of the file.
        while not rows:
            chunk = self._chunk()
            if not chunk:
                break
            rows = [row for line in chunk.splitlines() if (row := _row(line)) is not None]
        return rows

    def _chunk(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                inode = self._path.stat().st_ino
                if self._inode not in (None, inode) or file.seek(0, 2) < self._offset:
                    raise RowsCutError
                self._inode = inode
                file.seek(self._offset)
                chunk = file.read(_CHUNK_BYTES)
        except FileNotFoundError:
            if self._offset:
                raise RowsCutError from None
            return b""
        whole = chunk.rfind(b"\n") + 1
        if whole == 0 and len(chunk) == _CHUNK_BYTES:
            raise InputError(f"{self._path}: a line of more than {_CHUNK_BYTES:,} bytes: this is no metrics file")
        self._offset += whole
        return chunk[:whole]


def entity_name(name: str) -> str:
    """Return `name` where MLflow takes it as a metric's or parameter's name, else a similar name of its own."""
    parts = [part for part in _UNFIT.sub("_", name).split("/") if part not in ("", ".", "..")]
    fit = "/".join(parts)
    if fit == name and 0 < len(fit) <= MAX_NAME:
        return name
    # The digest keeps two names apart that became alike.
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{fit[: MAX_NAME - 10]}-{digest}"


def text(value: Any, limit: int) -> str:
    """Return a value as text of at most `limit` characters: texts as they are, everything else as JSON."""
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    clean = written.encode("utf-8", "replace").decode().replace("\0", "")
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of `config.yaml`; InputError where there is no run or no valid file."""
    path = folder / "config.yaml"
    try:
        if path.stat().st_size > MAX_FILE_BYTES // 16:
            raise InputError(f"{path}: too large for an experiment file")
        written = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(written, Loader=yaml.SafeLoader)):
            raise InputError(f"{path}: YAML aliases (*name) are not allowed: write the value out")
        refuse_odd_numbers(written, f"{path}: ")
        content = yaml.safe_load(written)
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no run here: there is no config.yaml") from error
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("name"), str) or not content["name"].strip():
        raise InputError(f"{path}: no experiment file: it gives no name")
    return content


def experiment_name(config: Mapping[str, Any]) -> str:
    """Return the name of the MLflow experiment that a run of this config belongs to."""
    return text(config["name"].strip(), 500)


def end(folder: Path) -> str:
    """Return the status that MLflow gives a run without a result: its training failed, or was stopped from outside."""
    return "FAILED" if _is_plain(folder / "failure.json") else "KILLED"


def has_ended(folder: Path) -> bool:
    """Say whether a training has come to its end, pictures included, or has failed."""
    if _is_plain(folder / "failure.json"):
        return True
    result = read_object(folder / "result.json")
    return result is not None and UNDRAWN not in (result.get("notes") or ())


def began(folder: Path) -> int:
    """Return when a run began, in ms since 1970: at its first row, or when its config was written."""
    written = int((folder / "config.yaml").stat().st_mtime * 1000)
    rows = MetricsTail(folder / "metrics.jsonl").read()
    return min(written, rows[0].time) if rows else written


def ended(folder: Path) -> int:
    """Return when a run without more to come ended, in ms since 1970.

    A folder that was copied has new times of files: there, the last row's own time is the last that is known.
    """
    rows = last_rows(folder / "metrics.jsonl")
    written = [path.stat().st_mtime for name in ("result.json", "failure.json", "trial.json", "metrics.jsonl")
               if _is_plain(path := folder / name)]  # fmt: skip
    last = int((written[0] if written else (folder / "config.yaml").stat().st_mtime) * 1000)
    begun = (folder / "config.yaml").stat().st_mtime * 1000
    copied = bool(rows) and begun > rows[-1].time
    return rows[-1].time if copied else max(last, rows[-1].time if rows else 0)


def last_rows(path: Path) -> list[Row]:
    """Return the rows at the end of `metrics.jsonl`, some hundred of them."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _END_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    return [row for line in lines if (row := _row(line)) is not None]


def last_value(path: Path, name: str) -> float | None:
    """Return the last value of a metric at the end of `metrics.jsonl`; None where there is none."""
    return next((row.values[name] for row in reversed(last_rows(path)) if name in row.values), None)


def read_object(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object; None where there is no such file or no JSON object in it."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the resolved config as flat `section.key` texts."""
    return {entity_name(key): text(value, MAX_PARAMETER) for key, value in _flat(config, "")}


def tags(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return what the run is known by: model, data, seed, source state, and the result's labels once there is one."""
    environment = read_object(folder / "environment.json") or {}
    result = read_object(folder / "result.json") or {}
    data, made_of = _section(config, "data"), _section(environment, "data")
    known = {
        "kind": config.get("kind"),
        "model": _section(config, "model").get("name"),
        "dataset": made_of.get("name") or data.get("name") or data.get("csv"),
        "data_fingerprint": made_of.get("fingerprint") or result.get("data_fingerprint"),
        "data_status": made_of.get("status"),
        "resample": made_of.get("resample"),
        "seed": config.get("seed"),
        "device": environment.get("device_name") or result.get("device"),
        "dirty": environment.get("dirty"),
        "version": environment.get("flowbench"),
        "budget": result.get("budget"),
        "config_sha256": result.get("config_sha256"),
        "parameters": result.get("parameters"),
        "mae_original": _remarks(result, "mae_original"),
    }
    found = {f"flowbench.{key}": text(value, MAX_TAG) for key, value in known.items() if value is not None}
    commit = environment.get("commit")
    return found | ({"mlflow.source.git.commit": text(commit, MAX_TAG)} if commit else {})


def final_values(result: Mapping[str, Any]) -> dict[str, float]:
    """Return `<split>/<metric>` with its `_stderr` and `_n`, and `throughput/…`, of a result; finite numbers only.

    A metric without one value for all columns is `<split>/<metric>/<column>`.
    """
    values: dict[str, Any] = {"train_seconds": result.get("train_seconds")}
    for split, metrics in _section(result, "metrics").items():
        for name, metric in (metrics if isinstance(metrics, dict) else {}).items():
            if isinstance(metric, dict):
                values |= known_values(f"{split}/{name}", metric)
                values[f"{split}/{name}_stderr"] = metric.get("stderr")
                values[f"{split}/{name}_n"] = metric.get("n")
    values |= {f"throughput/{name}": value for name, value in _section(result, "throughput").items()}
    return finite(values)


def beside_curve(values: Mapping[str, float], folder: Path) -> dict[str, float]:
    """Return a result's values by names that no curve of the run has: those of a split that has one as `final/<name>`.

    A training may end on a validation: MLflow would take its last figure for the reported one, or both for one curve.
    """
    tail = MetricsTail(folder / "metrics.jsonl")
    drawn: set[str] = set()
    while rows := tail.read():
        drawn.update(name for row in rows for name in row.values)
    splits = {name.partition("/")[0] for name in values if name in drawn}
    return {f"final/{name}" if name.partition("/")[0] in splits else name: value for name, value in values.items()}


def artifacts(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield each file that MLflow keeps whole, with its folder there (None: the top)."""
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "result.json"):
        if _is_plain(folder / name):
            yield folder / name, None
    for path in sorted((folder / "figures").rglob("*")):
        if _is_plain(path) and path.resolve().is_relative_to(folder.resolve()):
            yield path, path.parent.relative_to(folder).as_posix()


def origin(folder: Path) -> str | None:
    """Return a digest of config and first row, by which a run whose `mlflow.json` was lost is found again.

    The row's time makes it unique. Without rows the result takes its place; None as long as there is neither.
    """
    digest = hashlib.sha256((folder / "config.yaml").read_bytes())
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            first = file.readline(_CHUNK_BYTES)
    except FileNotFoundError:
        first = b""
    if not first.endswith(b"\n"):
        try:
            first = (folder / "result.json").read_bytes()
        except FileNotFoundError:
            return None
    digest.update(first)
    return digest.hexdigest()


def _row(line: bytes) -> Row | None:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    step, time = content.pop("step", None), content.pop("time", None)
    if type(step) is not int or not 0 <= step < 2**53 or "time" not in (found := finite({"time": time})):
        return None
    milliseconds = found["time"] * 1000
    return Row(step, int(milliseconds), finite(content)) if 0 <= milliseconds < 2**53 else None


def finite(values: Mapping[Any, Any]) -> dict[str, float]:
    """Return the finite numbers of a mapping, by MLflow's names."""
    kept = {}
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            # An integer beyond the floats' range raises; MLflow's databases keep floats.
            number = float(value) if abs(value) < 1e300 else math.inf
            if math.isfinite(number):
                kept[entity_name(str(name))] = number
    return kept


def _remarks(result: Mapping[str, Any], name: str) -> str | None:
    for metrics in _section(result, "metrics").values():
        if isinstance(metrics, dict) and (metric := _section(metrics, name)):
            return ", ".join(remarks(name, metric)) or metric.get("unit")
    return None


def _flat(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _section(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def _is_plain(path: Path) -> bool:
    # A link could name any file of the machine, and a run folder may come from elsewhere.
    return path.is_file() and not path.is_symlink()
