"""What `import flowbench as fb` gives: the names, their price, their examples, and that no room takes a name away."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import flowbench as fb

IN_PROCESSES = {"flowbench.tuning.ranks", "flowbench.__main__"}
"""Modules that do something when they are run; they are no room's name."""

NAMES = [
    "list_experiments",
    "list_tables",
    "list_datasets",
    "experiment",
    "train",
    "load_run",
    "evaluate",
    "compare",
    "reproduce",
    "tune",
    "measure_throughput",
    "Run",
    "RealNVP",
    "Glow",
    "NICE",
    "TarFlow",
    "PixelCNN",
    "IAFVAE",
    "adapters",
    "errors",
]


def test_all_is_the_front_door() -> None:
    assert set(fb.__all__) == set(NAMES)
    assert set(NAMES) <= set(dir(fb))


def test_no_module_takes_the_place_of_a_name() -> None:
    names = {name: getattr(fb, name) for name in fb.__all__}
    for module in pkgutil.walk_packages(fb.__path__, "flowbench."):
        if module.name not in IN_PROCESSES:
            importlib.import_module(module.name)
    for name, value in names.items():
        assert getattr(fb, name) is value, name
        assert inspect.ismodule(value) == (name in ("adapters", "errors")), name


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_documented_and_typed(name: str) -> None:
    value = getattr(fb, name)
    assert value.__doc__
    if inspect.isfunction(value):
        hints = typing.get_type_hints(value, vars(sys.modules[value.__module__]) | {"Any": typing.Any})
        assert set(inspect.signature(value).parameters) | {"return"} == set(hints)


EXAMPLES = [name for name in NAMES if name not in ("adapters", "errors")]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_name_has_an_example_that_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    value = getattr(fb, name)
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(value) or "", {}, name, None, None)
    assert examples.examples
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples)
    assert failed == 0


def test_importing_is_quick_and_without_torch() -> None:
    code = "import flowbench, sys; print(sorted({'torch', 'numpy', 'pandas', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    timed = [sys.executable, "-X", "importtime", "-c", "import flowbench"]
    taken = []
    for _ in range(3):  # another process may have the core
        lines = subprocess.run(timed, capture_output=True, text=True).stderr.splitlines()
        taken += [int(line.split("|")[1]) for line in lines if line.endswith("| flowbench")]
    assert min(taken) < 60_000  # microseconds


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'fit'"):
        _ = fb.fit
