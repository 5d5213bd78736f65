"""Ours in alternation with other ways, the plain PyTorch way and normflows: same shapes, same threads.

The ratio is that at equal settings of memory and layout. How the other way does out of the box stands beside it.
"""

import importlib.util

import numpy as np
import pytest
import torch
from other_ways import Way, compare, megabytes, normflows_glow, ours, out_of_the_box, plain, plain_tarflow, shown

from flowbench.throughput.passes import PASSES
from flowbench.throughput.statistics import interval

ROUNDS = 7
BATCH = 16
OTHERS = {
    "the plain PyTorch way": (plain, "real_nvp/cifar10", [], 0.0, BATCH),
    "normflows": (
        normflows_glow, "glow/cifar10", ["model.steps=8", "model.hidden=256", "model.learn_top=false"], 0.03, BATCH,
    ),
    "the plain TarFlow": (plain_tarflow, "tarflow/cifar10-small", [], 0.0, 64),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("against", OTHERS)
def test_ours_is_faster_and_trains_in_no_more_memory(benchmark, ratios, against, name):
    make_theirs, experiment, keys, tolerance, batch = OTHERS[against]
    if against == "normflows" and importlib.util.find_spec("normflows") is None:
        pytest.skip("pip install normflows: Glow is timed against it")
    threads = torch.get_num_threads()
    ways = [
        Way(ours, (name, batch, experiment, keys)),
        Way(make_theirs, (name, batch)),
        out_of_the_box(make_theirs, name, batch),
    ]
    wall, work, facts = compare(ways, ROUNDS, threads)
    benchmark.pedantic(lambda: None, rounds=1)
    (our_size, our_memory), (their_size, their_memory), _ = facts
    assert our_size == pytest.approx(their_size, rel=tolerance)
    equal, untouched = work[1:] / work[0]
    ratio, low, high = interval(equal)
    benchmark.extra_info.update(
        against=against, ratio=ratio, low=low, high=high, wall_ratio=float(np.median(wall[1] / wall[0])),
        out_of_the_box=interval(untouched), peak_memory_bytes=our_memory, their_peak_memory_bytes=their_memory,
        threads=threads, parameters=our_size, images_per_second=float(np.median(batch / wall[0])),
        their_images_per_second=float(np.median(batch / wall[1])),
    )  # fmt: skip
    memories = megabytes(our_memory), megabytes(their_memory)
    ratios.append([f"{experiment} {name}, batch {batch}", against, shown(equal), shown(untouched), *memories])
    assert high > 1
    if name == "train" and our_memory is not None:
        assert our_memory <= their_memory


def test_recomputation_halves_the_memory_for_two_fifths_more_time(benchmark, ratios):
    threads = torch.get_num_threads()
    ways = [
        Way(ours, ("train", BATCH, "real_nvp/cifar10", ["train.recompute=true"])),
        Way(plain, ("train", BATCH)),
        out_of_the_box(plain, "train", BATCH),
    ]
    _, work, facts = compare(ways, ROUNDS, threads)
    benchmark.pedantic(lambda: None, rounds=1)
    equal, untouched = work[1:] / work[0]
    memories = [memory for _, memory in facts]
    benchmark.extra_info.update(
        ratio=float(np.median(equal)), out_of_the_box=float(np.median(untouched)),
        peak_memory_bytes=memories[0], their_peak_memory_bytes=memories[1],
    )  # fmt: skip
    row = [shown(equal), shown(untouched), *map(megabytes, memories[:2])]
    ratios.append(["real_nvp/cifar10 train, train.recompute", "the plain PyTorch way", *row])
    assert np.median(equal) >= 1 / 1.4
    if None not in memories:
        assert memories[0] <= 0.5 * memories[1]
