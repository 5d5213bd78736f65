"""What all benchmarks share: pinned threads, the device, a table of the figures at the end."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table

from flowbench.system.device import prepare_to_compute
from flowbench.system.environment import describe_environment
from flowbench.throughput.formats import result_table

RESULTS = pytest.StashKey[list]()
RATIOS = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption("--threads", type=int, default=1, help="CPU threads of every benchmark")
    parser.addoption(
        "--lines", type=Path, default=None, help="file with a line of JSON for each pass, written as it ends"
    )
    parser.addoption("--figures", default=None, help="folder for the pictures that some benchmarks draw")


def pytest_configure(config):
    torch.set_num_threads(config.getoption("--threads"))
    prepare_to_compute()
    config.stash[RESULTS] = []
    config.stash[RATIOS] = []


def pytest_collection_modifyitems(config, items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device here"))
    if not config.getoption("-m"):
        left_out = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    # A machine that was taken away in the middle goes on where it was; another device or commit is measured anew.
    measured = _measured(config.getoption("--lines"))
    config.hook.pytest_deselected(items=[item for item in items if item.name in measured])
    items[:] = [item for item in items if item.name not in measured]


def _measured(lines):
    if lines is None or not lines.exists():
        return set()
    written = lines.read_text(encoding="utf-8")
    # A last line that was torn has no end: its case is measured again, on a line of its own.
    whole = written[: written.rfind("\n") + 1]
    if whole != written:
        lines.write_text(whole, encoding="utf-8")
    here = where_it_runs().values()
    found = [json.loads(line) for line in whole.splitlines()]
    return {one["case"] for one in found if any(one.items() >= place.items() for place in here)}


def where_it_runs():
    """What a line says of its device, by the device's kind."""
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    found = {kind: describe_environment(torch.device(kind)) for kind in kinds}
    return {kind: {key: one[key] for key in ("device_name", "commit")} for kind, one in found.items()}


def pytest_terminal_summary(terminalreporter, config):
    console = Console(width=160, highlight=False, file=terminalreporter._tw._file)
    if config.stash[RESULTS]:
        terminalreporter.section(f"passes, {torch.get_num_threads()} CPU threads; medians and 95 % intervals")
        console.print(result_table(config.stash[RESULTS]))
    if config.stash[RATIOS]:
        terminalreporter.section("against other ways to compute the same: time of theirs / time of ours")
        columns = ("pass", "against", "equal settings", "theirs out of the box", "peak memory", "theirs")
        table = Table(*columns, show_edge=False)
        for row in config.stash[RATIOS]:
            table.add_row(*row)
        console.print(table)


@pytest.fixture
def results(request):
    """Entries of the table of passes; those that a test adds become lines of the file of `--lines`."""
    entries, lines = request.config.stash[RESULTS], request.config.getoption("--lines")
    before = len(entries)
    yield entries
    if lines is not None:
        place = where_it_runs()["cuda" if request.node.get_closest_marker("cuda") else "cpu"]
        with lines.open("a", encoding="utf-8") as file:
            file.writelines(
                json.dumps({"case": request.node.name, **place, "torch": torch.__version__, **entry}) + "\n"
                for entry in entries[before:]
            )


@pytest.fixture
def ratios(request):
    """Rows of the table of ratios."""
    return request.config.stash[RATIOS]
