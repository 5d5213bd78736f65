"""YAML files from anywhere, read as plain mappings: no objects, no aliases, no depth without end."""

from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowbench.errors import InputError, one_line

__all__ = ["read_mapping"]

MAX_FILE_BYTES = 100_000
MAX_DEPTH = 40
"""Of brackets and indentations: YAML's scanner takes time with the square of it."""


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; `what` it should be (`an experiment file`) stands in the errors.

    Raises:
        InputError: the file is missing, too large, no YAML, or no mapping.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes: is this {what}?")
        text = path.read_text(encoding="utf-8")
        _refuse_bombs(text, path)
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from error
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, ValueError, TypeError, AssertionError) as error:
        raise InputError(f"{path}: cannot be read as {what}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: {what} is a mapping of keys to values")
    return cast(dict[str, Any], content)


def _refuse_bombs(text: str, path: Path) -> None:
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        # Aliases could expand without bound ("billion laughs"), and no experiment needs them.
        if isinstance(token, yaml.AliasToken):
            raise InputError(f"{path}: YAML aliases (*name) are not allowed: write the value out")
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > MAX_DEPTH:
            raise InputError(f"{path}: nested deeper than {MAX_DEPTH} levels: no experiment is")


_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
