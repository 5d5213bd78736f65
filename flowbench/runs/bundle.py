"""Models that travel: what lies in an exported folder, and its weights read back, checked against its manifest.

The layout is that of model hubs: `README.md` (the card), `config.json`, `model.safetensors`; the rest is a run's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowbench.data.manifest import file_sha256
from flowbench.errors import InputError
from flowbench.system import atomic

__all__ = [
    "MANIFEST",
    "TRAINING",
    "WEIGHTS",
    "check_files",
    "is_bundle",
    "read_state",
    "write_manifest",
    "write_state",
]

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
"""The reported model: weights (raw or averaged, as reported), buffers and the batch statistics that belong to them."""
TRAINING = "training.safetensors"
"""What the reported state replaced, by `model.<name>`, and averages that are not reported, by `ema.<name>`."""


def is_bundle(folder: Path) -> bool:
    """Say whether a model was exported into `folder`."""
    return (folder / WEIGHTS).is_file()


def write_state(folder: Path, state: Mapping[str, Any], *, averaged: bool) -> dict[str, Any]:
    """Write the weights of a checkpoint as safetensors; return what `read_state` must know to give the state back.

    Args:
        folder: where the files go.
        state: `model`, `ema`, `population`, each tensors by name, and `step`.
        averaged: whether the reported weights are the moving averages.
    """
    model, ema, population = state["model"], state["ema"], state["population"]
    replaced = {**(ema if averaged else {}), **population}
    save_file(_own({**model, **replaced}), folder / WEIGHTS)
    aside = {f"model.{name}": model[name] for name in replaced}
    aside |= {} if averaged else {f"ema.{name}": value for name, value in ema.items()}
    save_file(_own(aside), folder / TRAINING)
    return {"step": state["step"], "averaged": sorted(ema) if averaged else [], "population": sorted(population)}


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state that was exported: `model`, `ema`, `population`, `step`, bit for bit.

    Raises:
        InputError: a file is missing, damaged or was changed since the export.
    """
    state = check_files(folder)["state"]
    try:
        reported, aside = load_file(folder / WEIGHTS), load_file(folder / TRAINING)
        # A file made elsewhere under these names would pass the hash only with a manifest of its own.
        model = {name: aside.get(f"model.{name}", value) for name, value in reported.items()}
        others = {name.removeprefix("ema."): value for name, value in aside.items() if name.startswith("ema.")}
        ema = {**{name: reported[name] for name in state["averaged"]}, **others}
        population = {name: reported[name] for name in state["population"]}
        return {"model": model, "ema": ema, "population": population, "step": state["step"]}
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: not an exported model of this version: {' '.join(str(error).split())}") from error


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `manifest.json`: `content`, and the SHA-256 of every file beside it.

    Not of the card, which people edit, nor of `evaluations/`, which a later evaluation on another machine rewrites.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in (MANIFEST, "README.md"))
    atomic.write_json(
        folder / MANIFEST, {"schema": 1, **content, "files": {path.name: file_sha256(path) for path in files}}
    )


def check_files(folder: Path) -> dict[str, Any]:
    """Return the manifest's content after comparing every file that it lists; InputError names the first that differs.

    This notices damage and changes by anybody who left the manifest alone; it is no signature.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = dict(content["files"])
        state = content["state"]
        assert isinstance(state, dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise InputError(f"{path}: missing or damaged: export the run again") from error
    for name in (WEIGHTS, TRAINING):
        if name not in files:
            raise InputError(f"{path}: does not list {name}: export the run again")
    for name, digest in files.items():
        member = folder / name
        if ".." in Path(name).parts or not member.is_file():
            raise InputError(f"{member}: missing, but {MANIFEST} lists it: export the run again")
        if file_sha256(member) != digest:
            raise InputError(
                f"{member}: changed or damaged since the export (SHA-256 is not the one in {MANIFEST}): "
                "get the folder again, or export the run again"
            )
    return dict(content)


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses views of one storage, and strides that are not the shape's own (channels last).
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
