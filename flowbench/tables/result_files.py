"""`results.json` of a table, read back: what `flowbench reproduce` wrote, or nothing."""

import json
from pathlib import Path
from typing import Any

from flowbench.errors import InputError

__all__ = ["SCHEMA", "read_results"]

SCHEMA = 1
"""Of the files that this version writes, and the only one that it reads."""


def read_results(path: Path) -> dict[str, Any]:
    """Read a table's `results.json`.

    Raises:
        InputError: the file is missing, is something else, or has a schema that this version does not know.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file: flowbench reproduce TABLE writes it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a results file of flowbench reproduce ({type(error).__name__})") from error
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list) or "table" not in content:
        raise InputError(f"{path}: not a results file of flowbench reproduce (it has no table, or no rows)")
    if content.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: schema {content.get('schema')!r}, but this version of flowbench reads {SCHEMA}: use the version "
            "that wrote it, or run the table again"
        )
    return content
