"""Training curves in bf16 beside float32's: do they lie within the spread of the seeds?

`python benchmarks/bf16_curves.py` trains each experiment for 300 steps in both precisions, with the same images and
noise for the same seed, one thread each. Ends in a table of windows of 50 steps: the mean bits/dim of float32's curves,
their standard deviation over the seeds, and how far bf16's lie from them, seed by seed. `--only glow/cifar10-small`,
`--seeds 0 1 2 3 4` and `KEY=VALUE` change what is trained; `--jobs 2` trains two at a time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np

from flowbench.runs.folder import RunFolder

CASES = ("real_nvp/digits", "real_nvp/cifar10-small", "glow/cifar10-small")
PRECISIONS = ("32", "bf16")
WINDOW = 50


def main():
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--only", choices=CASES, action="append")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1)
    chosen = parser.parse_args()
    if len(chosen.seeds) < 2 or chosen.steps < WINDOW:
        parser.error(f"a spread takes two seeds and more, a window {WINDOW} steps and more")
    for case in chosen.only or CASES:
        wanted = list(product(PRECISIONS, chosen.seeds))
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(chosen.jobs) as pool:

            def train(one, case=case, folder=Path(folder)):
                return curve(case, *one, chosen.steps, chosen.overrides, folder)

            curves = dict(zip(wanted, pool.map(train, wanted), strict=True))
        exact, rounded = (np.array([curves[precision, seed] for seed in chosen.seeds]) for precision in PRECISIONS)
        show(case, exact, rounded)


def curve(case, precision, seed, steps, overrides, folder):
    """Return the training bits/dim of a run, a mean for each window."""
    run = folder / f"{precision}-{seed}"
    changes = [f"train.precision={precision}", f"seed={seed}", f"train.steps={steps}", "train.log_every=1"]
    changes += ["evaluate.limit=64", "evaluate.draws=1", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FLOWBENCH_TRACKING": "off"}
    command = [sys.executable, "-m", "flowbench", "train", case, *changes, "--run-dir", str(run)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{case}, {precision}, seed {seed}: {done.stderr.strip().splitlines()[-1]}")
    values = [row["train/bits_per_dim"] for row in RunFolder(run).metrics() if "train/bits_per_dim" in row]
    return np.array(values[: steps // WINDOW * WINDOW]).reshape(-1, WINDOW).mean(axis=1)


def show(case, exact, rounded):
    """Print the windows of a case; both (seeds, windows), bits/dim."""
    print(f"\n{case}, {len(exact)} seeds: mean training bits/dim of {WINDOW} steps")
    names = ("up to step", "float32", "sd of seeds", "bf16 - float32, mean", "largest of a seed")
    print("{:>10s} {:>9s} {:>12s} {:>21s} {:>18s}".format(*names))
    apart = rounded - exact
    spread = exact.std(axis=0, ddof=1)
    for window, (mean, sd) in enumerate(zip(exact.mean(axis=0), spread, strict=True)):
        largest = np.abs(apart[:, window]).max()
        print(f"{(window + 1) * WINDOW:10d} {mean:9.4f} {sd:12.4f} {apart[:, window].mean():+21.4f} {largest:18.4f}")
    within = np.abs(apart.mean(axis=0)) <= spread
    print(f"within one standard deviation of the seeds: {within.sum()} of {within.size} windows", flush=True)


if __name__ == "__main__":
    main()
