"""This tree against an earlier commit in a worktree of its own, in turns, in processor time: start and small steps.

`python benchmarks/against_commit.py` times, in both trees with one thread each,

- the start: `flowbench train real_nvp/digits train.steps=1` whole, imports, evaluation and pictures included;
- a training step of `real_nvp/digits` (batch 64), in processes that stay.

`--against COMMIT`, `--rounds N`, and `start` or `steps` for one of them. Ends in a table of the ratios of each turn's
times, this tree's over the commit's: below 1 is faster.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from other_ways import shown
from side_by_side import ROOT, worktree

TARGETS = {"start": 0.6, "steps": 0.75}
STEPS = """
import sys, time
import torch
try:
    from flowbench.config.experiments import load_experiment
    from flowbench.system.memory import keep_freed_memory
except ModuleNotFoundError:  # the commits before the package had rooms
    from flowbench.config import load_experiment
    from flowbench.memory import keep_freed_memory
from flowbench.throughput.passes import PASSES, make_subject
torch.set_num_threads(1)
keep_freed_memory()
run = PASSES["train"](make_subject(load_experiment("real_nvp/digits"), 64, torch.device("cpu")), compiled=False)
for _ in range(3):
    run()
print("ready", flush=True)
for _ in sys.stdin:
    begun = time.process_time()
    for _ in range(5):
        run()
    print((time.process_time() - begun) / 5, flush=True)
"""


def environment(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "FLOWBENCH_TRACKING": "off"}


@contextmanager
def start(tree: Path) -> Iterator[Callable[[], float]]:
    """Give a function that runs the command and returns the seconds of the processor that it took."""

    def run() -> float:
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-P", "-m", "flowbench", "train", "real_nvp/digits", "train.steps=1"]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            subprocess.run([*command, "--run-dir", f"{out}/run"], env=environment(tree), cwd=out, check=True, **quiet)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    run()  # bytecode is written, files are in the system's cache
    yield run


@contextmanager
def steps(tree: Path) -> Iterator[Callable[[], float]]:
    """Give a function that lets a process take steps and returns the seconds of one."""
    command = [sys.executable, "-P", "-c", STEPS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(tree), text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        def run() -> float:
            process.stdin.write("again\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield run
        process.stdin.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="start|steps", default=list(TARGETS))
    parser.add_argument("--against", default="8bc1bd1", metavar="COMMIT")
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory())) / "tree"
        before = held.enter_context(worktree(chosen.against, folder))
        for name in chosen.what:
            with ExitStack() as running:
                way = {"start": start, "steps": steps}[name]
                ours, theirs = (running.enter_context(way(tree)) for tree in (ROOT, before))
                taken = np.array([(ours(), theirs()) for _ in range(chosen.rounds)])
            medians = np.median(taken, axis=0)
            print(
                f"{name}: {shown(taken[:, 0] / taken[:, 1])} of {chosen.against} (target {TARGETS[name]}), "
                f"{medians[0]:.4g} s and {medians[1]:.4g} s, medians of {chosen.rounds}, torch {torch.__version__}",
                flush=True,
            )


if __name__ == "__main__":
    main()
