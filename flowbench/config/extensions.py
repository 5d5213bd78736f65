"""Modules of one's own that register models, data sets, forecasters or figures: brought in by file or by name."""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from flowbench.config.registry import density_models, forecasters, image_sets, series_sets
from flowbench.errors import InputError, in_words

__all__ = [
    "ENVIRONMENT",
    "changed_imports",
    "import_extension",
    "import_inherited",
    "imports_of",
    "missing_imports",
    "pass_on",
]

ENVIRONMENT = "FLOWBENCH_IMPORTS"
"""How the processes that a command starts are told what it imported."""


def import_extension(what: str) -> ModuleType:
    """Import a file (`mine.py`) or a module (`mine.models`), found from the working folder, too; once is enough.

    Raises:
        InputError: it is not there, or fails.
    """
    path = Path(what)
    try:
        return _from_file(path) if path.suffix == ".py" else _from_name(what)
    except InputError:
        raise
    except Exception as error:  # somebody else's code: whatever it raises
        raise InputError(f"--import {what}: {in_words(error)}") from error


def pass_on(imported: Sequence[str]) -> None:
    """Let the processes that this one starts import the same."""
    if imported:
        paths = [str(Path(what).absolute()) if what.endswith(".py") else what for what in imported]
        os.environ[ENVIRONMENT] = os.pathsep.join(paths)


def import_inherited() -> None:
    """Import what the process that started this one did."""
    for what in filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep)):
        import_extension(what)


def imports_of(model: str, data: str | None, kind: str) -> list[dict[str, Any]]:
    """Return what was registered outside flowbench of the names that an experiment uses: what, module, path, hash.

    Args:
        model: `model.name`.
        data: `data.name`.
        kind: of the experiment.
    """
    registries = (density_models, image_sets) if kind == "density" else (forecasters, series_sets)
    found = []
    for registry, name in zip(registries, (model, data), strict=True):
        module = None if name is None else registry.origin(name)
        if module is not None:
            path = _file_of(module)
            found.append(
                {
                    "what": registry.what,
                    "name": name,
                    "module": module,
                    "path": None if path is None else str(path),
                    "sha256": None if path is None else _sha256(path),
                }
            )
    return found


def missing_imports(recorded: Sequence[dict[str, Any]]) -> str | None:
    """Return one line that says which import a run asks for; None: all that it needs is imported."""
    for one in recorded:
        registry = next((each for each in _REGISTRIES if each.what == one["what"]), None)
        if registry is None or one["name"] in registry:
            continue
        who = f"its {one['what']} {one['name']}"
        if one["path"] is None:
            return f"{who} was registered in {one['module']}, which no file holds: define it first"
        return (
            f"{who} is registered by {one['path']} (SHA-256 {one['sha256'][:12]}…): give --import {one['path']}, or "
            "in Python import it first"
        )
    return None


def changed_imports(recorded: Sequence[dict[str, Any]]) -> str | None:
    """Return one line that says which file is not the one that a run was trained with; None: none that is known of.

    Files that the file imports itself are not looked at.
    """
    for one in recorded:
        registry = next((each for each in _REGISTRIES if each.what == one["what"]), None)
        module = None if registry is None else registry.origin(one["name"])
        path = None if module is None else _file_of(module)
        if path is None or one["sha256"] is None or (now := _sha256(path)) == one["sha256"]:
            continue
        return (
            f"its {one['what']} {one['name']} was trained with another {path.name} (SHA-256 {one['sha256'][:12]}…) "
            f"than {path} is now ({now[:12]}…): put that one back, or train anew in another folder"
        )
    return None


_REGISTRIES = (density_models, image_sets, forecasters, series_sets)


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else Path(file).absolute()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _from_file(path: Path) -> ModuleType:
    name, place = path.stem, path.absolute()
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) and Path(str(known.__file__)).absolute() == place:
            return known
        raise InputError(f"--import {path}: there is a module {name} already: call the file otherwise")
    if not place.is_file():
        raise InputError(f"--import {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _from_name(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise InputError(f"--import {name}: there is no such module; a file ends in .py") from error
