"""The quick table by as many processes of one thread as there are cores, against one process of all threads.

`python benchmarks/side_by_side.py` takes turns: this tree's `flowbench reproduce quick`, and that of the commit before
runs were made side by side, in a worktree of its own; each whole, from the start of the command to its page. `--busy 2`
lets two processes spin beside both. `--only digits` and `KEY=VALUE` make it shorter. Ends in the ratio of the times,
each turn's against its own turn's: below 1 is faster.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
import yaml

from flowbench.system.cores import cores
from flowbench.throughput.statistics import interval

ROOT = Path(__file__).resolve().parents[1]
SPIN = "while True: pass"


@contextmanager
def worktree(commit, folder):
    """Give the tree of a commit; the worktree is gone after the block."""
    subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", folder, commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", folder], check=True)


@contextmanager
def busy(number):
    """Let so many processes spin during the block."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(number)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def seconds(tree, table, overrides, threads):
    """Return how long a tree's `reproduce` takes for a table, from nothing."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads), "FLOWBENCH_TRACKING": "off"}
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-P", "-m", "flowbench", "reproduce", str(table), *overrides, "--out", out]
        begun = time.perf_counter()
        subprocess.run(command, env=environment, cwd=out, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun


def earlier_table(tree):
    """Return the quick table of a tree, each row with that tree's number of steps: both then train as much."""
    experiments = tree / "experiments"
    table = yaml.safe_load((experiments / "tables" / "quick.yaml").read_text("utf-8"))
    for entry in (entry for row in table["rows"] for entry in row["experiments"]):
        entry.pop("bounds", None)
        training = yaml.safe_load((experiments / f"{entry['name']}.yaml").read_text("utf-8")).get("train", {})
        if "steps" in training:
            entry["overrides"] = [f"train.steps={training['steps']}"]
    return table


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--against", default="8bc1bd1", metavar="COMMIT")
    parser.add_argument("--only", action="append", default=[], help="a row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", type=int, default=0, help="processes that spin beside")
    chosen = parser.parse_args()
    rows = [word for row in chosen.only for word in ("--only", row)] + chosen.overrides
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory())) / "tree"
        before = held.enter_context(worktree(chosen.against, folder))
        table = Path(held.enter_context(tempfile.TemporaryDirectory())) / "quick.yaml"
        table.write_text(yaml.safe_dump(earlier_table(before)), "utf-8")
        held.enter_context(busy(chosen.busy))
        pairs = []
        for number in range(chosen.rounds):
            ways = [lambda: seconds(ROOT, table, rows, 1), lambda: seconds(before, table, rows, cores())]
            # Whoever is first finds the caches cold.
            order = (0, 1) if number % 2 == 0 else (1, 0)
            taken = {way: ways[way]() for way in order}
            pairs.append((taken[0], taken[1]))
            print(f"round {number + 1}: side by side {taken[0]:.1f} s, {chosen.against} {taken[1]:.1f} s", flush=True)
    ratios = np.array([ours / theirs for ours, theirs in pairs])
    median, low, high = interval(ratios)
    print(
        f"median ratio {median:.2f} (95 % {low:.2f} to {high:.2f}) of {len(ratios)} rounds, {cores()} cores, "
        f"{chosen.busy} busy processes beside, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
