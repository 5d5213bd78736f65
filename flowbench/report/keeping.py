"""Results without weights: the few small files that a page can be built from again, ready to be committed."""

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.report.curves import curve_keys
from flowbench.report.raster import webp_of
from flowbench.report.stored import DAMAGED, is_known, runs_table
from flowbench.report.vector import compact_svg
from flowbench.report.verdict import flat_settings
from flowbench.runs.folder import RunFolder
from flowbench.runs.kept import KEPT_RUNS, KeptRun, thinned_curve, write_kept_runs
from flowbench.system import atomic
from flowbench.tables.bounds import numbered
from flowbench.tables.result_files import read_results

__all__ = ["keep"]

MAX_PICTURE_BYTES = 200_000
"""Larger pictures stay behind: a repository keeps every version of them."""
LEFT_OUT = ("per_step", "per_column")
"""Parts of a metric that no table and no plot of a page reads."""


def keep(sources: Sequence[str], out: Path) -> list[Path]:
    """Store a results folder, runs and throughput files without weights in `out`; return the files for `report`.

    A table becomes three things, however many runs it has: `results.json`, its rows; `runs.jsonl`, its runs (see
    `flowbench.runs.kept`); `figures/<run>/`, the pictures that a page shows. What is kept there of the same table takes
    the new rows over: a row that the source has no figure of stays as it was. Single runs become a table, too, and join
    those that are kept there. Throughput files are copied as they are.

    Args:
        sources: one results folder, or any number of runs and of throughput files.
        out: where to; files of the same names are replaced.

    Raises:
        InputError: a source is nothing that is known, a small evaluation, or what it says is not there; several results
            folders would overwrite each other, as would those of another table in `out`; run folders lie in `out`.
    """
    tables = [Path(source) for source in sources if (Path(source) / "results.json").is_file()]
    others = [Path(source) for source in sources if Path(source) not in tables]
    measured = [source for source in others if is_known(source)]
    runs = [str(source) for source in others if source not in measured]
    if len(tables) + bool(runs) > 1:
        raise InputError(f"{out}: holds one results.json: keep one results folder, or single runs, at a time")
    if (tables or runs) and (out / "runs").exists():
        raise InputError(
            f"{out}: has run folders, in {out / 'runs'}, which would hide what is kept: give another --out"
        )
    written = [_copy_measured(file, source, out) for source in measured for file in _json_files(source)]
    for table in tables:
        file = table / "results.json"
        content = read_results(file)
        try:
            written.append(_keep_table(content, table, out))
        except DAMAGED as error:
            raise InputError(f"{file}: not a results file of flowbench reproduce ({type(error).__name__})") from error
    if runs:
        written.append(_keep_runs(runs_table(runs), out))
    return written


def _keep_table(results: Mapping[str, Any], base: Path, out: Path) -> Path:
    """Keep a table: its rows, in its order, and of a row without a figure the one that is kept already."""
    before = {key: row for key, row in numbered(_before(results, out)) if row["status"] == "done"}
    rows = [
        (before[key], out) if row["status"] != "done" and key in before else (row, base)
        for key, row in numbered(results["rows"])
    ]
    return _write(results, rows, out)


def _keep_runs(results: Mapping[str, Any], out: Path) -> Path:
    """Keep single runs, a row each, after those that are kept already."""
    new = {_name(Path(row["runs"][0])): row for row in results["rows"]}
    if len(new) < len(results["rows"]):
        raise InputError(f"{out}: two of the runs have the same name, and one would overwrite the other: rename one")
    before = [row for row in _before(results, out) if _name(Path(row["runs"][0])) not in new]
    return _write(results, [*((row, out) for row in before), *((row, Path()) for row in new.values())], out)


def _write(results: Mapping[str, Any], rows: Sequence[tuple[Mapping[str, Any], Path]], out: Path) -> Path:
    """Write rows, each with the folder that the paths of its runs are relative to."""
    for row in (row for row, _ in rows if "limited" in row["badges"]):
        raise InputError(
            f"{row['row']}, {row['experiment']}: a small evaluation ({row['labels']['limited']}), which is not kept: "
            "run it again without evaluate.limit"
        )
    found = [
        (row, [_found(Path(run), base, out) for run in row["runs"]] if row["status"] == "done" else [])
        for row, base in rows
    ]
    metrics: dict[str, list[str]] = {}
    for row, folders in found:
        for folder in folders:
            metrics.setdefault(_name(folder.path), []).append(row["metric"])
    runs = {_name(folder.path): folder for _, folders in found for folder in folders}
    kept = {name: _kept(folder, metrics[name]) for name, folder in runs.items()}
    # A page shows the pictures of the first seed.
    shown = {name: folders[0] for _, folders in found if folders and (name := _name(folders[0].path))}
    pictures = {path for name, folder in shown.items() for path in _keep_pictures(folder, out / "figures" / name)}
    write_kept_runs(out / KEPT_RUNS, kept)
    content = [
        {**row, "runs": [f"runs/{_name(folder.path)}" for folder in folders], "command": _command(row, folders)}
        for row, folders in found
    ]
    atomic.write_json(out / "results.json", {**results, "rows": content})
    _sweep(out / "figures", pictures)
    return out / "results.json"


def _found(run: Path, base: Path, out: Path) -> RunFolder:
    """Return a run of a row, from where its results say that it lies, or of those kept before."""
    for path in (base / run, out / "runs" / _name(run)):
        if RunFolder(path).finished:
            return RunFolder(path)
    raise InputError(f"{base / run}: there is no finished run there, and {out} keeps none: run its row again")


def _kept(run: RunFolder, metrics: Sequence[str]) -> KeptRun:
    rows = run.metrics()
    keys = list(dict.fromkeys(key for metric in metrics for key in curve_keys([rows], metric)))
    return KeptRun(run.config, run.environment, _without(run.result), thinned_curve(rows, keys), run.costs)


def _without(content: Any) -> Any:
    """Return what a result says, without the parts that are left out."""
    if not isinstance(content, Mapping):
        return content
    return {key: _without(value) for key, value in content.items() if key not in LEFT_OUT}


def _keep_pictures(run: RunFolder, target: Path) -> list[Path]:
    """Write the pictures of a run as WebP and as small SVG, one of each name; return the files."""
    found: dict[Path, bytes] = {}
    for path in sorted(run.figures.glob("*")):
        try:
            if path.suffix in (".png", ".webp"):
                content = path.read_bytes() if path.suffix == ".webp" else webp_of(path)
                found[target / f"{path.stem}.webp"] = content
            elif path.suffix == ".svg":
                found[target / path.name] = compact_svg(path.read_text(encoding="utf-8")).encode()
        except (OSError, ValueError):  # no picture, whatever its name says
            continue
    small = {path: content for path, content in found.items() if len(content) <= MAX_PICTURE_BYTES}
    for path, content in small.items():
        atomic.write_bytes(path, content)
    return list(small)


def _command(row: Mapping[str, Any], folders: Sequence[RunFolder]) -> str | None:
    """Return the command that makes a row again: that of a single run names its folder, which is this machine's."""
    command = row.get("command") or None
    if not command or not command.startswith("flowbench train ") or not folders:
        return command
    experiment, budget = folders[0].experiment, folders[0].result.get("time_budget")
    try:
        ours, theirs = flat_settings(experiment), flat_settings(load_experiment(experiment.name))
        changed = [f"{key}={_word(value)}" for key, value in ours.items() if value != theirs.get(key)]
        if load_experiment(experiment.name, changed) != experiment:
            return None
    except InputError:  # of an experiment that does not ship: the page shows its config
        return None
    ending = ["--time-budget", f"{budget:g}s"] if budget else []
    return shlex.join(["flowbench", "train", experiment.name, *changed, *ending])


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _before(results: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """Return the rows that are kept already; InputError where they are another table's."""
    if not (out / "results.json").is_file():
        return []
    before = read_results(out / "results.json")
    if before.get("table") != results["table"]:
        raise InputError(f"{out}: holds the table {before.get('table')}, not {results['table']}: give another --out")
    return list(before["rows"])


def _name(run: Path) -> str:
    return run.name if run.parent.name == "runs" else f"{run.parent.name}-{run.name}"


def _sweep(figures: Path, written: set[Path]) -> None:
    """Remove pictures that were kept before and belong to no row any more."""
    for path in figures.glob("*/*"):
        if path not in written and path.suffix in (".webp", ".svg"):
            path.unlink()
    for folder in figures.glob("*"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _copy_measured(file: Path, source: Path, out: Path) -> Path:
    target = out / (file.relative_to(source) if source.is_dir() else file.name)
    if not (target.exists() and file.samefile(target)):
        with atomic.replacing(target) as temporary:
            shutil.copyfile(file, temporary)
    return target


def _json_files(source: Path) -> list[Path]:
    return sorted([*source.glob("*.json"), *source.glob("*/*.json")]) if source.is_dir() else [source]
