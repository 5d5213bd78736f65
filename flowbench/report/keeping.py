"""Results without weights: the small files that a page can be built from again, ready to be committed."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowbench import atomic
from flowbench.errors import InputError
from flowbench.report.stored import is_known, runs_table, train_command
from flowbench.runs import RunFolder

__all__ = ["keep"]

KEPT = ("config.yaml", "environment.json", "metrics.jsonl", "result.json")
MAX_PICTURE_BYTES = 400_000
"""Larger pictures stay behind: a repository keeps every version of them."""


def keep(sources: Sequence[str], out: Path) -> list[Path]:
    """Copy results folders, runs and throughput files without weights into `out`; return what was written.

    A results folder becomes `out/results.json` with its runs under `out/runs/`; single runs become one, too; throughput
    files are copied as they are.

    Args:
        sources: one results folder, or any number of runs and of throughput files.
        out: where to; files of the same names are replaced.

    Raises:
        InputError: a source is nothing that is known, or several results folders would overwrite each other.
    """
    tables = [Path(source) for source in sources if (Path(source) / "results.json").is_file()]
    others = [Path(source) for source in sources if Path(source) not in tables]
    measured = [source for source in others if is_known(source)]
    runs = [str(source) for source in others if source not in measured]
    if len(tables) + bool(runs) > 1:
        raise InputError(f"{out}: holds one results.json: keep one results folder, or single runs, at a time")
    written = [_copy_measured(file, source, out) for source in measured for file in _json_files(source)]
    written += [_keep_table(_read(table / "results.json"), table, out) for table in tables]
    if runs:
        written.append(_keep_table(runs_table(runs), Path(), out))
    return written


def _keep_table(results: Mapping[str, Any], base: Path, out: Path) -> Path:
    atomic.write_json(out / "results.json", {**results, "rows": [_keep_row(row, base, out) for row in results["rows"]]})
    return out / "results.json"


def _keep_row(row: Mapping[str, Any], base: Path, out: Path) -> dict[str, Any]:
    kept = [_keep_run(base / run, out) for run in row["runs"]]
    command = row.get("command") or ""
    if command.startswith("flowbench train "):
        # The command of a single run names its folder, which is this machine's: from now on, the copy's.
        command = train_command(RunFolder(out / kept[0]))
    return {**row, "runs": kept, "command": command or None}


def _keep_run(run: Path, out: Path) -> str:
    name = run.name if run.parent.name == "runs" else f"{run.parent.name}-{run.name}"
    target = out / "runs" / name
    (target / "figures").mkdir(parents=True, exist_ok=True)
    for file in [run / name for name in KEPT] + sorted((run / "evaluations").glob("*.json")):
        if file.is_file():
            _copy(file, target / file.relative_to(run))
    for file in sorted((run / "figures").glob("*")):
        if file.is_file() and file.stat().st_size <= MAX_PICTURE_BYTES:
            _copy(file, target / "figures" / file.name)
    return Path(os.path.relpath(target, out)).as_posix()


def _copy_measured(file: Path, source: Path, out: Path) -> Path:
    target = out / (file.relative_to(source) if source.is_dir() else file.name)
    _copy(file, target)
    return target


def _json_files(source: Path) -> list[Path]:
    return sorted([*source.glob("*.json"), *source.glob("*/*.json")]) if source.is_dir() else [source]


def _copy(source: Path, target: Path) -> None:
    if target.exists() and source.samefile(target):
        return
    with atomic.replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {**content, "rows": list(content["rows"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a results file of flowbench reproduce ({type(error).__name__})") from error
