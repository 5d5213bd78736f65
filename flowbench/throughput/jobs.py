"""`flowbench throughput run` as a whole: measure, store as a file, copy to MLflow."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flowbench.config.schema import Experiment
from flowbench.errors import InputError, did_you_mean, why
from flowbench.system.atomic import write_json
from flowbench.system.device import default_device
from flowbench.throughput.files import default_path
from flowbench.throughput.measurement import measure
from flowbench.throughput.passes import PASSES
from flowbench.throughput.tracked import track

__all__ = ["check_passes", "pick_device", "run_and_store"]


def run_and_store(
    experiments: Sequence[Experiment[Any, Any]],
    *,
    passes: Sequence[str],
    batches: Sequence[int],
    threads: int | None,
    device: str | None,
    repeats: int,
    out: Path | None,
    progress: bool = True,
) -> tuple[dict[str, Any], Path]:
    """Measure, write the result file, mirror it in MLflow; return the content and the file.

    Args:
        experiments, passes, batches, repeats: see `measure`.
        threads: of the CPU; None: as torch has them.
        device: cpu or cuda; None: cuda where there is one.
        out: the file; None: under results/throughput/, by device, time and commit.
        progress: say each figure on stderr as soon as it is there.

    Raises:
        InputError: see `measure`; no CUDA device; the file cannot be written.
    """
    where = pick_device(device)
    if out is not None:
        _check_writable(out)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        content = measure(
            experiments,
            passes=passes,
            batches=batches,
            device=where,
            repeats=repeats,
            report=_report_progress if progress else lambda result: None,
        )
    finally:
        torch.set_num_threads(before)
    path = out or default_path(content["environment"])
    write_json(path, content)
    track(content, path)
    return content, path


def _check_writable(out: Path) -> None:
    """Raise InputError before the minutes of measuring, not after them."""
    if not out.is_dir() and (out.suffix != ".json" or out.name == "results.json"):
        raise InputError(f"--out {out}: reports know throughput files as NAME.json, and a table's as results.json")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            raise IsADirectoryError
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {why(error)}: give another --out") from error


def pick_device(name: str | None) -> torch.device:
    """Return the device of a name, by default CUDA where there is one; InputError if it is not there.

    The process is prepared for it, as by `default_device`.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device here: use --device cpu")
    chosen = default_device()
    return torch.device(name) if name else chosen


def check_passes(text: str) -> list[str]:
    """Read `train,forward` as names of passes; InputError names one that is none."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PASSES:
            raise InputError(f"--passes {text}: no pass named {name!r}{did_you_mean(name, PASSES)}")
    return list(dict.fromkeys(names))


def _report_progress(result: dict[str, Any]) -> None:
    speed, floor = result["images_per_second"], result["floor_ratio"]
    ratio = "" if floor is None else f", {floor['median']:.2f} times its convolutions"
    print(
        f"{result['experiment']} {result['pass']}, batch {result['batch']}: {speed['median']:.4g} images/s{ratio}",
        file=sys.stderr,
        flush=True,
    )
