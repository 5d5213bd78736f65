"""Evaluations as files of a run: the figures as JSON, and the bits/dim of every image beside them."""

import hashlib
from pathlib import Path

import numpy as np

from flowbench.data import Images
from flowbench.evaluation.likelihood import Measured
from flowbench.evaluation.measuring import stem_of
from flowbench.evaluation.reported import Setting
from flowbench.system.atomic import replacing, write_json

__all__ = ["evaluation_path", "write_evaluation"]


def evaluation_path(
    folder: Path, images: Images, setting: Setting, *, part: str | None = None, foreign: bool = False
) -> Path:
    """Return where `write_evaluation` puts the JSON file; the bits/dim of every image lie beside it, `.npy`, (n,).

    Args:
        folder: the run's `evaluations/`.
        images: what is measured.
        setting: how.
        part: what a run calls them, where that is not their split: `holdout`.
        foreign: the images are not the run's own data: two contents never share a name.
    """
    stem = stem_of(images.name, images.fingerprint if foreign else None)
    parts = [part or images.split, stem, f"draws{setting.draws}", setting.batch_norm, setting.weights]
    if setting.importance is not None:
        parts.append(f"importance{setting.importance}")
    if setting.samples is not None:
        parts.append(f"samples{setting.samples}")
    if setting.limit is not None:
        parts.append(f"limit{setting.limit}")
    return folder / ("-".join(parts) + f"-seed{setting.seed}.json")


def write_evaluation(
    folder: Path,
    images: Images,
    setting: Setting,
    measured: Measured,
    *,
    part: str | None = None,
    foreign: bool = False,
) -> Path:
    """Write `<split>-….json` and, beside it, the bits/dim of every image as `.npy`; return the JSON file's path.

    Arguments as of `evaluation_path`.
    """
    path = evaluation_path(folder, images, setting, part=part, foreign=foreign)
    with replacing(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
        np.save(file, measured.bits_per_dim)
    content = {
        "schema": 1,
        "dataset": images.name,
        "split": part or images.split,
        "data_fingerprint": images.fingerprint,
        "data_arrays": dict(images.arrays),
        "data_rows": "all" if measured.rows is None else hashlib.sha256(measured.rows.tobytes()).hexdigest(),
        "data_status": images.status,
        "seed": setting.seed,
        "metrics": {part or images.split: measured.metrics},
        "notes": measured.notes,
        "per_image": path.with_suffix(".npy").name,
    }
    write_json(path, content)
    return path
