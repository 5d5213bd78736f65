"""bf16 on a processor against float32 before there was any, and Glow's training in it against normflows'.

`python benchmarks/bf16.py` lets all ways take turns, each in a process of its own, with one thread, one setting of
memory (what is freed is kept) and batches of 16. Float32 is that of the commit `--against`, in a worktree of its own.
Ends in a table of ratios, each turn's against its own turn's: above 1 bf16 is faster; of peak memory, below 1 it takes
less. `--only glow/cifar10-small`, `--passes train` and `--rounds 15` make it shorter or surer.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BATCH = 16
CASES = {
    "real_nvp/cifar10": [],
    "glow/cifar10": ["model.steps=8", "model.hidden=256"],
    "glow/cifar10-small": [],
}
PASSES = {"train": "training", "forward": "likelihood", "inverse": "sampling"}
COMPILED_TOO = "glow/cifar10-small"
"""Whose operations are so small that what lies between them is most of a pass."""
FLOAT32_BEFORE = "float32 before"
FLOOR = "its convolutions alone"
FLOAT32 = "float32"
COMPILED = {"bf16, compiled": "bf16", "float32, compiled": "32"}
WITHOUT_TOP = "bf16, top not learned"
NORMFLOWS = {"normflows, float32": "32", "normflows, autocast to bf16": "bf16"}
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="8bc1bd1", metavar="COMMIT")
    parser.add_argument("--only", choices=CASES, action="append")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    from side_by_side import worktree

    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory())) / "tree"
        before = held.enter_context(worktree(chosen.against, folder))
        rows = []
        for case in chosen.only or CASES:
            for name in chosen.passes:
                lines = measure(case, name, before, chosen.rounds)
                print(*lines, sep="\n", flush=True)
                rows += lines
    print(f"\nprocessor time, medians and 95 % intervals of {chosen.rounds} rounds, one thread, batch {BATCH}")
    print(f"{'':32s} {'what':22s} {'against':28s} times as fast          of its peak memory", *rows, sep="\n")


def measure(case, name, before, rounds):
    """Return the lines of the table for a pass."""
    import numpy as np

    from flowbench.throughput.statistics import interval

    ours = [case, name, "bf16", *CASES[case]]
    ways = {
        "bf16": (ROOT, ours),
        FLOAT32_BEFORE: (before, [case, name, "32", *CASES[case]]),
        "bf16 before, autocast": (before, [case, name, "bf16", *CASES[case]]),
        FLOOR: (ROOT, [*ours, "floor"]),
    }
    if case == COMPILED_TOO:
        compiled = [*CASES[case], "train.compile=true"]
        ways |= {way: (ROOT, [case, name, precision, *compiled]) for way, precision in COMPILED.items()}
        ways[FLOAT32] = (ROOT, [case, name, "32", *CASES[case]])
    if case == "glow/cifar10" and name == "train":
        # normflows learns no prior of the last level.
        ways[WITHOUT_TOP] = (ROOT, [*ours, "model.learn_top=false"])
        ways |= {way: (ROOT, ["normflows", name, precision]) for way, precision in NORMFLOWS.items()}
    seconds, memory = in_turn(ways, rounds)
    pairs = [(way, WITHOUT_TOP if way in NORMFLOWS else "bf16") for way in ways.keys() - {"bf16", WITHOUT_TOP}]
    pairs += [(other, way) for way in COMPILED if way in ways for other in (FLOAT32_BEFORE, FLOAT32)]
    lines = []
    for way, mine in pairs:
        ratios = [theirs / own for theirs, own in zip(seconds[way], seconds[mine], strict=True)]
        median, low, high = interval(np.array(ratios))
        room = "" if way == FLOOR else f"{memory[mine] / memory[way]:.2f} ({memory[way] / 1e6:,.0f} MB)"
        names = f"{case + ' ' + PASSES[name]:32s} {mine:22s} {way:28s}"
        lines.append(f"{names} {median:.2f} ({low:.2f} to {high:.2f})    {room}")
    return sorted(lines)


def in_turn(ways, rounds):
    """Return the seconds of each way, by round, and the most bytes that it takes."""
    with ExitStack() as held:
        workers, memory = {}, {}
        for way, (tree, arguments) in ways.items():
            worker = subprocess.Popen(
                [sys.executable, __file__, "work", *arguments],
                env=os.environ | SETTINGS | {"PYTHONPATH": str(tree)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            held.callback(worker.wait)
            held.callback(worker.stdin.close)
            workers[way], memory[way] = worker, int(worker.stdout.readline())
        seconds = {way: [] for way in ways}
        for number in range(rounds):
            # Whoever comes first finds the caches cold.
            for way in list(ways)[:: 1 if number % 2 else -1]:
                print("again", file=workers[way].stdin, flush=True)
                seconds[way].append(float(workers[way].stdout.readline()))
        return seconds, memory


def work(case, name, precision, *keys):
    """Time a pass of the tree that is imported whenever asked to, until stdin ends."""
    import torch

    from flowbench.throughput.device import Device

    clock = Device(torch.device("cpu"))
    run = normflows(name, precision) if case == "normflows" else passing(case, name, precision, *keys)
    run()
    print(clock.peak_memory(run), flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        run()
        print(time.process_time() - began, flush=True)


def passing(case, name, precision, *keys):
    """Return a pass of ours, or under the key "floor" its convolutions alone."""
    import torch

    from flowbench.throughput.convolutions import Floor, record
    from flowbench.throughput.passes import PASSES, make_subject

    try:
        from flowbench.config.experiments import load_experiment
    except ModuleNotFoundError:  # in the commit before
        from flowbench.config import load_experiment
    changes = [f"train.precision={precision}", *(key for key in keys if key != "floor")]
    cpu = torch.device("cpu")
    run = PASSES[name](make_subject(load_experiment(case, changes), BATCH, cpu), compiled="train.compile=true" in keys)
    return Floor(record(run), cpu, lambda: None) if "floor" in keys else run


def normflows(name, precision):
    """Return a pass of normflows, in bf16 under torch's autocast."""
    import torch
    from other_ways import normflows_glow

    run, _ = normflows_glow(name, BATCH)
    if precision == "32":
        return run

    def cast():
        with torch.autocast("cpu", torch.bfloat16):
            return run()

    return cast


if __name__ == "__main__":
    work(*sys.argv[2:]) if sys.argv[1:2] == ["work"] else main()
