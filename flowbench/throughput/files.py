"""Result files of `flowbench throughput run`: read and checked, and where they lie by default."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbench.errors import InputError, why

__all__ = ["KEYS", "default_path", "key_of", "read_results"]

KEYS = ("experiment", "pass", "batch", "precision", "compiled")
"""What tells one entry from another."""

_FIGURES = ("images_per_second", "floor_ratio")
_MAX_BYTES = 50_000_000


def key_of(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells an entry of a result file from the others."""
    return tuple(result[key] for key in KEYS)


def read_results(path: Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        InputError: the file is missing or not a result file of this schema.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: larger than {_MAX_BYTES:,} bytes: is this a throughput file?")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {why(error)}") from error
    except ValueError as error:
        raise InputError(f"{path}: not a throughput file (no JSON): make one with flowbench throughput run") from error
    problem = _problem(content)
    if problem:
        raise InputError(f"{path}: not a throughput file ({problem}): make one with flowbench throughput run")
    result: dict[str, Any] = content
    return result


def default_path(environment: dict[str, Any]) -> Path:
    """Return `results/throughput/<device>/<time>-<commit>.json`."""
    device = f"{environment['device']}-{environment['device_name']}-{environment['threads']}-threads"
    folder = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    stamp = re.sub(r"[^0-9T]", "", environment["time"].partition("+")[0])
    source = (environment.get("commit") or environment["flowbench"])[:10]
    return Path("results/throughput") / folder / f"{stamp}-{source}.json"


def _problem(content: Any) -> str | None:
    """Return what is wrong with the content of a result file, or None."""
    if not isinstance(content, dict) or not isinstance(content.get("results"), list):
        return "results is missing"
    if content.get("schema") != 1:
        return f"schema {content.get('schema')!r}, not 1"
    if not isinstance(content.get("environment"), dict):
        return "environment is missing"
    for number, result in enumerate(content["results"]):
        if not isinstance(result, dict) or not all(key in result for key in (*KEYS, *_FIGURES)):
            return f"result {number} has not all of {', '.join((*KEYS, *_FIGURES))}"
        for name in _FIGURES:
            figure = result[name]
            if figure is None:
                continue
            samples = figure.get("samples") if isinstance(figure, dict) else None
            if not samples or not all(isinstance(value, (int, float)) and value > 0 for value in samples):
                return f"result {number}: {name}.samples are not positive numbers"
    return None
