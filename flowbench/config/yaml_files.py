"""YAML files from anywhere, read as plain mappings: no objects, no aliases, no depth without end, no octal numbers."""

import re
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowbench.errors import InputError, one_line

__all__ = ["dump", "read_mapping", "refuse_odd_numbers"]

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
        content = _parse(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from error
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, ValueError, TypeError, AssertionError) as error:
        raise InputError(f"{path}: cannot be read as {what}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: {what} is a mapping of keys to values")
    return cast(dict[str, Any], deepcopy(content))


@lru_cache(maxsize=256)
def _parse(text: str, path: Path) -> Any:
    """A table reads the same few files for every run of every row, and reading YAML takes longer than all checks."""
    _refuse_bombs(text, path)
    refuse_odd_numbers(text, f"{path}: ")
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def dump(content: Mapping[str, Any]) -> str:
    """Return a mapping as YAML that `read_mapping` reads back as it is."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def refuse_odd_numbers(text: str, where: str, key: str = "") -> None:
    """Refuse numbers that YAML 1.1 reads otherwise than they look: 010 is 8 to it, 1:30 is 90, and 0x10 is 16.

    Args:
        text: YAML, whole or the value of `key`.
        where: what the message begins with, before the key.
        key: the dotted key that the text is the value of.

    Raises:
        InputError: a number, as value or key, is not in plain decimal digits; what stands in quotes is text.
        yaml.YAMLError: the text is no YAML.
    """
    root = yaml.compose(text, Loader=_Loader)
    waiting, seen = [(root, key)] if root is not None else [], set[int]()
    while waiting:
        node, at = waiting.pop()
        if id(node) in seen:  # behind an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            if node.tag in _NUMBERS and not _DECIMAL.fullmatch(node.value):
                raise InputError(
                    f"{where}{at}: {node.value[:40]} is not in plain decimal digits: write the number without leading "
                    "zeros, colons, underscores and prefixes (10, not 010), or put it in quotes if it is text"
                )
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(item, f"{at}.{place}".lstrip(".")) for place, item in enumerate(node.value)][::-1]
        else:
            for name, value in reversed(node.value):
                below = f"{at}.{name.value}".lstrip(".") if isinstance(name, yaml.ScalarNode) else at
                waiting += [(value, below), (name, below)]


# Numbers as JSON writes them, with the signs, dots and infinities that YAML has besides.
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """Takes for a number what OmegaConf takes for one: exponents need no dot and no sign."""


class _Dumper(yaml.SafeDumper):
    """Quotes texts that `_Loader` would take for numbers."""


_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


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
