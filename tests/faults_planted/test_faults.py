"""Proof that the tests notice what they are there for: each planted fault makes the named test fail.

The tests themselves run, by their node ids, in a pytest inside this process, where the patch is in place. A failure
counts only if it is a verdict (an assertion, or an error that flowbench raises itself): a patch that merely crashes
proves nothing.
"""

import inspect
import pkgutil
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from flowbench.errors import FlowbenchError
from tests.faults_planted.faults import FAULTS, Fault

ROOT = Path(__file__).parents[2]
settings.register_profile("planted", phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False)
VERDICTS = (AssertionError, pytest.fail.Exception, FlowbenchError)


class Recorder:
    """Keeps how the tests of an inner session ended."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.verdicts: list[str] = []
        self.crashes: list[str] = []
        self.skipped: list[str] = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        yield
        if call.excinfo is None:
            self.passed += [item.nodeid] if call.when == "call" else []
        elif isinstance(call.excinfo.value, pytest.skip.Exception):
            self.skipped.append(item.nodeid)
        elif call.when == "call" and isinstance(call.excinfo.value, VERDICTS):
            self.verdicts.append(item.nodeid)
        else:
            self.crashes.append(f"{item.nodeid} ({call.when}): {call.excinfo.exconly()}")


def run(node_ids: list[str]) -> Recorder:
    """Run tests by their node ids in this process, their modules imported afresh."""
    recorder = Recorder()
    # A module that was imported earlier holds the functions of that time under its own names.
    files = {str(ROOT / node_id.partition("::")[0]) for node_id in node_ids}
    earlier = {name: module for name, module in sys.modules.items() if getattr(module, "__file__", None) in files}
    for name in earlier:
        del sys.modules[name]
    # Shrinking a counterexample takes a hundred times as long as finding it.
    settings.load_profile("planted")
    # What watches for exceptions that nobody raises collects garbage for half a second at the end of every session,
    # and what rewrites assertions would do it again for every fresh import, for messages that nobody reads.
    plugins = ["terminal", "xdist", "randomly", "cacheprovider", "benchmark", "unraisableexception", "threadexception"]
    options = ["-o", "addopts=", "--assert=plain", *(part for plugin in plugins for part in ("-p", f"no:{plugin}"))]
    pytest.main([*options, f"--rootdir={ROOT}", *(str(ROOT / node) for node in node_ids)], [recorder])
    # Tests of this process that go on with the modules they were collected from find them under their names again.
    sys.modules.update(earlier)
    return recorder


def plant(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _, attribute = fault.target.rpartition(".")
    owner = pkgutil.resolve_name(path)
    original = inspect.getattr_static(owner, attribute)
    monkeypatch.setattr(owner, attribute, fault.mutate(original))


def test_there_are_enough_and_no_fault_stands_twice() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 20


@pytest.mark.slow
def test_the_unpatched_code_passes_every_test_that_notices_a_fault() -> None:
    nodes = sorted({fault.noticed_by for fault in FAULTS})
    recorder = run(nodes)
    assert (recorder.verdicts, recorder.crashes) == ([], [])
    assert len(recorder.passed) + len(recorder.skipped) >= len(nodes)
    # Nothing but a processor without the units that a fault is about may leave it unnoticed.
    assert all("bfloat16" in node for node in recorder.skipped)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_noticed(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(fault, monkeypatch)
    recorder = run([fault.noticed_by])
    assert recorder.crashes == []
    if recorder.skipped:
        pytest.skip(f"not on this machine: {fault.noticed_by}")
    assert recorder.verdicts, f"{fault.noticed_by} did not notice: {fault.name}"
